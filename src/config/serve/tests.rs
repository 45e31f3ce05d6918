use std::path::Path;

use super::*;
use crate::backend::{Class, Rate};

/// What a file with this text, these variables and nothing else give.
fn resolved_with(text: &str, variables: &[(&str, &str)]) -> Result<Serve, String> {
    let mut settings = Settings::default();
    let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
    settings
        .add_text(text, Path::new("cairn.toml"))
        .and_then(|()| settings.add_environment(variables))
        .and_then(|()| Serve::from_settings(&mut settings, PlaceFlags::default()))
        .map_err(|error| error.to_string())
}

fn resolved(text: &str) -> Serve {
    resolved_with(text, &[]).unwrap()
}

#[track_caller]
fn refused(text: &str, parts: &[&str]) {
    let line = resolved_with(text, &[]).unwrap_err();
    for part in parts {
        assert!(line.contains(part), "{part:?} is not in: {line}");
    }
    assert!(!line.contains('\n'), "{line}");
}

const SAMPLE: &str = include_str!("../../../docs/cairn.toml");

#[test]
fn the_sample_says_the_defaults() {
    assert_eq!(format!("{:?}", resolved(SAMPLE)), format!("{:?}", resolved("")));
}

#[test]
fn the_sample_has_every_key() {
    let mut settings = Settings::default();
    settings
        .add_text(
            "[[client]]\nuid = 1\nroles = []\n[[quota]]\nrepository = \"a\"\nlogical_bytes = 1",
            Path::new("x"),
        )
        .unwrap();
    Serve::from_settings(&mut settings, PlaceFlags::default()).unwrap();
    let mut client = settings.tables("client").unwrap().remove(0);
    for key in ["client.identity", "client.uid", "client.roles", "client.repositories"] {
        client.one(key, text).ok();
    }
    let mut quota = settings.tables("quota").unwrap().remove(0);
    for key in ["quota.repository", "quota.logical_bytes", "quota.stored_bytes"] {
        quota.one(key, text).ok();
    }
    let tables: Vec<_> = client.asked().chain(quota.asked()).collect();
    let (mut section, mut keys) = ("", Vec::new());
    for line in SAMPLE.lines() {
        let line = line.trim_start_matches("# ");
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_matches(['[', ']']);
        } else if let Some((name, _)) = line.split_once(" = ") {
            keys.push(format!("{section}.{name}"));
        }
    }
    for key in settings.asked().filter(|key| key.contains('.')).chain(tables) {
        assert!(keys.iter().any(|written| written == key), "{key} is not in the sample");
    }
}

#[test]
fn every_line_of_the_sample_can_be_used() {
    let lines = SAMPLE.lines().map(|line| {
        let bare = line.strip_prefix("# ").unwrap_or(line);
        let is_setting = bare.starts_with("[[") || (bare.contains(" = ") && !bare.starts_with(char::is_uppercase));
        if is_setting && !bare.starts_with("uid") {
            bare
        } else {
            line
        }
    });
    let text = lines.collect::<Vec<_>>().join("\n");
    let serve = resolved(&text);
    assert!(serve.tls.is_some_and(|files| files.ca.is_some()));
    assert_eq!(serve.clients.len(), 1);
    assert_eq!(
        serve.clients[0].repositories.as_deref(),
        Some(&["default".to_owned()][..])
    );
}

#[test]
fn flags_beat_environment_beats_file() {
    let text = "[limits]\nstreams = 1\nconnections = 1\n[listen]\nhttp = \"127.0.0.1:1\"";
    let mut settings = Settings::default();
    settings.add_text(text, Path::new("x")).unwrap();
    let variables = [("CAIRN_LIMITS__STREAMS", "2"), ("CAIRN_LISTEN__HTTP", "127.0.0.1:2")];
    let variables = variables.map(|(name, value)| (name.into(), value.into()));
    settings.add_environment(variables.into_iter()).unwrap();
    settings.add_flag("--http", "listen.http", "127.0.0.1:3");
    let serve = Serve::from_settings(&mut settings, PlaceFlags::default()).unwrap();
    assert_eq!((serve.limits.connections, serve.limits.streams), (1, 2));
    assert_eq!(serve.http.unwrap().port, 3);
}

#[test]
fn lists_come_from_variables_and_empty_variables_are_none() {
    let variables = [
        ("CAIRN_LISTEN__GRPC", "unix:///run/a.sock, http://localhost"),
        ("CAIRN_LOG__LEVEL", ""),
        ("CAIRN_LOG", "nothing of ours"),
        ("OTHER__X", "1"),
    ];
    let serve = resolved_with("", &variables).unwrap();
    let addresses: Vec<_> = serve.grpc.iter().map(Address::to_string).collect();
    assert_eq!(addresses, ["unix:///run/a.sock", "http://localhost:7420"]);
}

#[test]
fn unknown_keys_are_named_with_where_they_stand_and_what_there_is() {
    refused(
        "[limits]\nstream = 1",
        &["cairn.toml: limits.stream is unknown", "stream_idle, streams"],
    );
    refused(
        "[limit]\nstreams = 1",
        &["limit.streams is unknown", "sections budget, capacity, client"],
    );
    refused("level = \"info\"", &["cairn.toml: level is unknown"]);
    refused(
        "[[client]]\nuid = 1\nrole = [\"read\"]",
        &["client.role is unknown", "roles, uid"],
    );
    refused(
        "[store]\nlocation = \"gopher://a\\nb\"",
        &["store.location is no place for a store", "a\\nb"],
    );
    refused("\"a\\nb\" = 1", &["cairn.toml: a\\nb is unknown"]);
    refused("[\"a\\u001b[2J\"]\nx = 1", &["cairn.toml: a\\u{1b}[2J.x is unknown"]);
    let line = resolved_with("", &[("CAIRN_LIMITS__X", "1")]).unwrap_err();
    assert!(line.starts_with("CAIRN_LIMITS__X (limits.x) is unknown"), "{line}");
}

#[test]
fn wrong_values_are_named_with_what_to_do() {
    refused("[limits]\nstreams = 0", &["limits.streams is \"0\"", "1 to 65536"]);
    refused("[limits]\ndrain = \"25\"", &["limits.drain", "with its unit"]);
    refused("[limits]\ndrain = [1]", &["limits.drain takes one value"]);
    refused("[budget]\nbytes = \"1MiB\"", &["budget.bytes", "16.0 MiB to 16.0 GiB"]);
    refused("[log]\nformat = \"xml\"", &["log.format", "json, text"]);
    refused("[log]\nlevel = \"loud\"", &["log.level", "warn"]);
    refused("[capacity]\npreset = \"x\"", &["default, noobaa"]);
    refused("[capacity]\nreserve = \"1GiB\"", &["capacity.reserve", "true, false"]);
    refused("[keys]\nprovider = \"kms\"", &["file, core"]);
    refused(
        "[listen]\ngrpc = [\"127.0.0.1:1\"]",
        &["listen.grpc", "http://host:7420"],
    );
    refused("[listen]\ngrpc = []", &["listen.grpc is empty"]);
    refused("[listen]\nhttp = 7421", &["listen.http", "host:port", "off"]);
    refused("[store]\nlocation = \"ftp://x\"", &["cairn.toml: store.location"]);
    refused("[store]\nlocation = \"\"", &["store.location", "empty"]);
    refused("a = [\n\n", &["cairn.toml, line "]);
}

#[test]
fn settings_that_need_each_other_say_so() {
    refused("[tls]\ncert = \"x\"", &["tls.cert needs tls.key"]);
    refused("[tls]\nkey = \"x\"", &["tls.key needs tls.cert"]);
    refused("[tls]\nca = \"x\"", &["tls.ca needs"]);
    refused(
        "[listen]\ngrpc = [\"https://h:1\"]",
        &["listen.grpc", "needs tls.cert and tls.key"],
    );
    refused(
        "[keys]\nprovider = \"core\"\nfile = \"x\"",
        &["keys.file", "leave one out"],
    );
    refused("[[client]]\nroles = []", &["identity", "uid"]);
    refused("[[client]]\nuid = 1", &["needs roles"]);
    refused(
        "[[client]]\nuid = 1\nidentity = \"x\"\nroles = []",
        &["exclude each other"],
    );
    refused("[client]\nuid = 1", &["client is written as [[client]]"]);
    refused(
        "[store]\nlocation = \"s3://bucket/p\"\ncatalog = \"/c\"",
        &["--key-file", "s3://bucket/p", "keys.provider = \"core\""],
    );
    let core = resolved("[store]\nlocation = \"s3://bucket/p\"\ncatalog = \"/c\"\n[keys]\nprovider = \"core\"");
    assert_eq!(core.keys, KeySource::Core);
    assert!(core.store_options().unwrap().keks.is_empty());
}

#[test]
fn anybody_is_let_in_by_will_only() {
    let open = "[listen]\ngrpc = [\"http://0.0.0.0:7420\"]\n";
    let tls = "[tls]\ncert = \"c\"\nkey = \"k\"\n";
    let anybody = "[[client]]\nidentity = \"anonymous\"\nroles = [\"read\"]\n";
    let somebody = "[[client]]\nidentity = \"core\"\nroles = [\"read\"]\n";
    refused(
        open,
        &["http://0.0.0.0:7420", "[[client]] identity = \"anonymous\"", "tls.ca"],
    );
    refused(&format!("{open}{somebody}"), &["anonymous"]);
    resolved(&format!("{open}{anybody}"));
    let https = "[listen]\ngrpc = [\"https://0.0.0.0:7420\"]\n";
    refused(&format!("{https}{tls}"), &["anonymous"]);
    resolved(&format!("{https}{tls}ca = \"ca\"\n"));
    for here in ["http://localhost", "http://127.1.2.3:1", "http://[::1]:1", "unix:///x"] {
        resolved(&format!("[listen]\ngrpc = [\"{here}\"]"));
    }
}

#[test]
fn clients_are_read() {
    let serve = resolved(
        "[[client]]\nidentity = \"anonymous\"\nroles = [\"status\"]\n[[client]]\nuid = 1000\nroles = [\"read\", \"write\"]\n\
         repositories = [\"a\"]",
    );
    let expected = [
        Client {
            who: Who::Anonymous,
            roles: [Role::Status].into(),
            repositories: None,
        },
        Client {
            who: Who::Uid(1000),
            roles: [Role::Read, Role::Write].into(),
            repositories: Some(vec!["a".to_owned()]),
        },
    ];
    assert_eq!(serve.clients, expected);
}

#[test]
fn addresses_are_read_and_printed_alike() {
    for text in [
        "unix:///run/cairn/agent.sock",
        "http://host:1",
        "https://[::1]:7420",
        "http://10.0.0.1:0",
    ] {
        assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
    }
    let wrong = [
        "",
        "host:1",
        "unix://relative",
        "unix:///",
        "http://",
        "http://:1",
        "ftp://h",
        "http://h:99999",
    ];
    for text in wrong
        .into_iter()
        .chain(["http://h/path", "http://[::1", "http://[x]:1", "http://[::1]1"])
    {
        assert!(text.parse::<Address>().is_err(), "{text}");
    }
    let long = format!("unix:///{}", "x".repeat(200));
    assert!(long.parse::<Address>().unwrap_err().contains("107"));
    assert!("host".parse::<HostPort>().unwrap_err().contains("host:port"));
}

#[test]
fn the_budget_is_a_quarter_within_bounds() {
    let cases = [(None, 512), (Some(64), 32), (Some(1024), 256), (Some(1 << 20), 512)];
    for (memory, budget) in cases {
        assert_eq!(budget_default(memory.map(|mib: u64| mib << 20)), budget << 20);
    }
    assert_eq!(resolved("[budget]\nbytes = \"64MiB\"").budget_bytes, 64 << 20);
}

#[test]
fn space_is_given_back_unless_somebody_says_otherwise() {
    assert_eq!(resolved("").reclaims, Reclaims::default());
    let reclaims = resolved("[reclaim]\nautomatic = false\ngarbage_percent = 25").reclaims;
    assert_eq!((reclaims.automatic, reclaims.garbage_percent), (false, 25));
    refused("[reclaim]\nautomatic = \"maybe\"", &["reclaim.automatic", "true"]);
    refused("[reclaim]\ngarbage_percent = 101", &["reclaim.garbage_percent", "100"]);
}

#[test]
fn the_reserve_is_kept_unless_somebody_says_no() {
    let holds = |text: &str| {
        let options = resolved(text).store_options_with(Vec::new()).unwrap();
        options.options.hold_reserve
    };
    assert!(holds(""));
    assert!(!holds("[capacity]\nreserve = false"));
}

#[test]
fn scrubs_are_off_until_somebody_says_how_often() {
    assert_eq!(resolved("").scrubs, Scrubs::default());
    let text = "[scrub]\nstructure_every = \"24h\"\nfull_every = \"720h\"\nrate_bytes = \"5MiB\"";
    let scrubs = resolved(text).scrubs;
    assert_eq!(scrubs.structure_every, Some(HOUR * 24));
    assert_eq!(scrubs.full_every, Some(HOUR * 720));
    assert_eq!(scrubs.rate_bytes.get(), 5 << 20);
    refused("[scrub]\nfull_every = \"1s\"", &["scrub.full_every", "or off"]);
    refused("[scrub]\nrate_bytes = \"1\"", &["scrub.rate_bytes", "64.0 KiB"]);
}

#[test]
fn nothing_is_limited_until_somebody_says_so() {
    let without = resolved("");
    assert_eq!((without.store_bytes_max, without.quotas.len()), (None, 0));
    assert_eq!(without.rates, Rates::default());
    let text = "[limits]\nstore_bytes = \"10GiB\"\n[shaping]\nscrub_bytes = \"5MiB\"\nforeground_requests = 100\n\
                reclaim_bytes = \"off\"\n[[quota]]\nrepository = \"a\"\nlogical_bytes = \"1GiB\"\n[[quota]]\n\
                repository = \"b\"\nstored_bytes = 0";
    let serve = resolved(text);
    assert_eq!(serve.store_bytes_max, Some(10 << 30));
    let rate = |class: Class| {
        let Rate { bytes, requests } = serve.rates[class];
        (
            bytes.map_or(0, |bytes| bytes.get()),
            requests.map_or(0, |requests| requests.get()),
        )
    };
    let rates = Class::ALL.map(rate);
    assert_eq!(rates, [(0, 100), (0, 0), (5 << 20, 0), (0, 0)]);
    let quota = |logical_bytes, stored_bytes| Quota {
        logical_bytes,
        stored_bytes,
    };
    let expected = [
        ("a".to_owned(), quota(Some(1 << 30), None)),
        ("b".to_owned(), quota(None, Some(0))),
    ];
    assert_eq!(serve.quotas, expected.into());
    let from_variable = resolved_with("", &[("CAIRN_SHAPING__EVACUATE_BYTES", "1MiB")]).unwrap();
    assert_eq!(from_variable.rates[Class::Evacuate].bytes.unwrap().get(), 1 << 20);
}

#[test]
fn wrong_limits_are_named_with_what_to_do() {
    refused(
        "[limits]\nstore_bytes = \"1KiB\"",
        &["limits.store_bytes", "1.0 MiB", "or off"],
    );
    refused(
        "[shaping]\nscrub_bytes = 1",
        &["shaping.scrub_bytes", "64.0 KiB", "or off"],
    );
    refused(
        "[shaping]\nscrub_requests = 0",
        &["shaping.scrub_requests", "1 to 1000000, or off"],
    );
    refused("[shaping]\nscrub = 1", &["shaping.scrub is unknown", "evacuate_bytes"]);
    refused("[quota]\nrepository = \"a\"", &["quota is written as [[quota]]"]);
    refused("[[quota]]\nlogical_bytes = 1", &["needs repository"]);
    refused(
        "[[quota]]\nrepository = \"a\"",
        &["quota.repository", "logical_bytes", "stored_bytes"],
    );
    refused(
        "[[quota]]\nrepository = \"A b\"\nlogical_bytes = 1",
        &["quota.repository", "A b"],
    );
    refused(
        "[[quota]]\nrepository = \"a\"\nbytes = 1",
        &["quota.bytes is unknown", "logical_bytes"],
    );
    let twice = "[[quota]]\nrepository = \"a\"\nlogical_bytes = 1\n";
    refused(&format!("{twice}{twice}"), &["twice", "\"a\""]);
    let line = resolved_with("", &[("CAIRN_QUOTA__REPOSITORY", "a")]).unwrap_err();
    assert!(line.contains("CAIRN_QUOTA__REPOSITORY"), "{line}");
}
