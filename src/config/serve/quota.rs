//! What the store and its repositories may use.

use std::collections::BTreeMap;

use super::read::{size, text};
use super::{Error, Settings};
use crate::config::Size;
use crate::engine::{QUOTAS_MAX, Quota};
use crate::format::RepositoryName;

/// Below it there is no room for a pack of any use; above it nothing that could be counted.
const STORE: (Size, Size) = (Size(1 << 20), Size(1 << 60));
/// 0 is a quota, too: nothing but empty objects.
const QUOTA: (Size, Size) = (Size(0), Size(1 << 60));

pub(super) fn store_bytes_max(settings: &mut Settings) -> Result<Option<u64>, Error> {
    let read = |text: &str| match text {
        "off" => Ok(None),
        text => size(STORE.0..=STORE.1)(text)
            .map(Some)
            .map_err(|problem| format!("{problem}, or off")),
    };
    let written = settings.one("limits.store_bytes", read)?.flatten();
    Ok(written.map(|Size(bytes)| bytes))
}

pub(super) fn quotas(settings: &mut Settings) -> Result<BTreeMap<String, Quota>, Error> {
    let mut quotas = BTreeMap::new();
    let tables = settings.tables("quota")?;
    if tables.len() > QUOTAS_MAX {
        return Err(settings.refuse("quota", &format!("is written too often; at most {QUOTAS_MAX} are kept")));
    }
    for table in tables {
        let (repository, quota) = self::quota(table)?;
        if quotas.insert(repository.clone(), quota).is_some() {
            return Err(settings.refuse("quota", &format!("is written twice for repository {repository:?}")));
        }
    }
    Ok(quotas)
}

fn quota(mut settings: Settings) -> Result<(String, Quota), Error> {
    let repository = settings.one("quota.repository", |name| {
        RepositoryName::new(name).map_err(|error| error.to_string())?;
        text(name)
    })?;
    let bytes = |settings: &mut Settings, key| {
        let written = settings.one(key, size(QUOTA.0..=QUOTA.1))?;
        Ok::<_, Error>(written.map(|Size(bytes)| bytes))
    };
    let quota = Quota {
        logical_bytes: bytes(&mut settings, "quota.logical_bytes")?,
        stored_bytes: bytes(&mut settings, "quota.stored_bytes")?,
    };
    settings.refuse_unknown()?;
    let Some(repository) = repository else {
        return Err(Error::setting("each [[quota]] needs repository = \"...\""));
    };
    if quota.is_none() {
        let problem = "needs logical_bytes = \"...\" or stored_bytes = \"...\" beside it";
        return Err(settings.refuse("quota.repository", problem));
    }
    Ok((repository, quota))
}
