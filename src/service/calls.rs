//! Every call of the contract, and what it takes to make it. A call without a row here is refused.

use super::caller::{Caller, Role};
use crate::engine::{Error, Reason, Result};

/// What it takes to make a call.
#[derive(Debug)]
pub struct Call {
    /// The call, as `DataPath/Put`: service and method without the package.
    pub name: &'static str,
    /// The roles it takes, all of them.
    pub roles: &'static [Role],
    /// Whether it is refused on plaintext TCP.
    pub private: bool,
}

const fn call(name: &'static str, roles: &'static [Role]) -> Call {
    Call {
        name,
        roles,
        private: false,
    }
}

const fn private(name: &'static str, roles: &'static [Role]) -> Call {
    Call {
        name,
        roles,
        private: true,
    }
}

/// Every call of the contract.
pub static CALLS: &[Call] = &[
    call("Agent/GetStatus", &[Role::Status]),
    call("Agent/WatchStatus", &[Role::Status]),
    call("Agent/SetMode", &[Role::Admin]),
    call("Agent/CheckHead", &[Role::Status]),
    call("Agent/GetCapabilities", &[Role::Status]),
    call("Agent/GetShaping", &[Role::Status]),
    call("Agent/SetShaping", &[Role::Admin]),
    call("Agent/GetLimits", &[Role::Status]),
    call("Agent/SetLimits", &[Role::Admin]),
    call("DataPath/Put", &[Role::Write]),
    call("DataPath/Get", &[Role::Read]),
    call("DataPath/Stat", &[Role::Read]),
    call("DataPath/List", &[Role::Read]),
    call("DataPath/Delete", &[Role::Write]),
    call("DataPath/Copy", &[Role::Read, Role::Write]),
    call("DataPath/Verify", &[Role::Read]),
    call("DataPath/ListDamaged", &[Role::Read]),
    private("Keys/Load", &[Role::Admin]),
    private("Keys/Unload", &[Role::Admin]),
    private("Keys/List", &[Role::Admin]),
    private("Keys/Rotate", &[Role::Admin]),
    call("Maintenance/Start", &[Role::Admin]),
    call("Maintenance/Watch", &[Role::Admin]),
    call("Maintenance/List", &[Role::Admin]),
    call("Maintenance/Cancel", &[Role::Admin]),
    call("Repositories/Create", &[Role::Admin]),
    call("Repositories/List", &[Role::Status]),
    call("Repositories/Describe", &[Role::Status]),
    private("Repositories/Delete", &[Role::Admin]),
];

/// The package that the services of [`CALLS`] are in.
const PACKAGE: &str = "/cairn.v1.";

impl Call {
    /// The call that a request path asks for. Health and reflection are none of ours: they take no role.
    ///
    /// # Errors
    /// `Unsupported` for a path of our package that is not in [`CALLS`].
    pub fn of(path: &str) -> Result<Option<&'static Self>> {
        let Some(name) = path.strip_prefix(PACKAGE) else {
            return Ok(None);
        };
        match CALLS.iter().find(|call| call.name == name) {
            Some(call) => Ok(Some(call)),
            None => Err(Error::new(Reason::Unsupported, "this agent does not know this call")),
        }
    }
}

/// Whether this caller may make this call at all. Which repositories it may name is decided where they are looked up.
///
/// # Errors
/// `PermissionDenied`.
pub fn authorize(caller: Option<&Caller>, call: &Call) -> Result<()> {
    let denied = |line: String| Err(Error::new(Reason::PermissionDenied, line));
    let Some(caller) = caller else {
        return denied(format!("{}: nobody is known to call", call.name));
    };
    let missing = call.roles.iter().find(|role| !caller.grants.roles.contains(role));
    if let Some(role) = missing {
        return denied(format!("{} takes the role {}", call.name, role.as_str()));
    }
    if call.private {
        caller.transport.require_private(call.name)?;
    }
    Ok(())
}
