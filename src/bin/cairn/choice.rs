//! Who does the work where both an agent and a place were named.

use clap::ArgMatches;
use clap::parser::ValueSource;

/// Who does the work.
pub(crate) enum Choice {
    Here,
    Agent,
    /// Both were named, from the same source.
    Neither(String, ValueSource),
}

/// A flag, or the environment in its place.
pub(crate) struct Named {
    flag: &'static str,
    source: ValueSource,
}

/// What is typed beats what stands in the environment.
pub(crate) fn choose(agent: Option<Named>, place: Option<Named>) -> Choice {
    match (agent, place) {
        (None, _) => Choice::Here,
        (Some(_), None) => Choice::Agent,
        (Some(agent), Some(place)) if agent.source != place.source => match agent.source {
            ValueSource::CommandLine => Choice::Agent,
            _ => Choice::Here,
        },
        (Some(agent), Some(place)) => {
            let line = format!(
                "{} and {} are two ways to a store: give only one of them",
                agent.as_given(),
                place.as_given()
            );
            Choice::Neither(line, agent.source)
        }
    }
}

impl Named {
    fn as_given(&self) -> String {
        match self.source {
            ValueSource::CommandLine => format!("--{}", self.flag.replace('_', "-")),
            _ => format!("CAIRN_{}", self.flag.to_uppercase()),
        }
    }
}

/// The one of these flags that was named most plainly, if any was. An empty variable is none.
pub(crate) fn plainest(matches: &ArgMatches, flags: &[&'static str]) -> Option<Named> {
    let named = |source| {
        let is_named = |flag: &&&str| {
            let empty = matches
                .try_get_raw(flag)
                .ok()
                .flatten()
                .is_none_or(|mut values| values.all(|value| value.is_empty()));
            !empty && matches.value_source(flag) == Some(source)
        };
        let flag = *flags.iter().find(is_named)?;
        Some(Named { flag, source })
    };
    named(ValueSource::CommandLine).or_else(|| named(ValueSource::EnvVariable))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_beats_the_environment() {
        use ValueSource::{CommandLine, EnvVariable};
        let agent = |source| Some(Named { flag: "agent", source });
        let store = |source| {
            Some(Named {
                flag: "key_file",
                source,
            })
        };
        assert!(matches!(choose(None, store(CommandLine)), Choice::Here));
        assert!(matches!(choose(agent(EnvVariable), None), Choice::Agent));
        assert!(matches!(choose(agent(CommandLine), store(EnvVariable)), Choice::Agent));
        assert!(matches!(choose(agent(EnvVariable), store(CommandLine)), Choice::Here));
        for (source, names) in [
            (CommandLine, ["--agent", "--key-file"]),
            (EnvVariable, ["CAIRN_AGENT", "CAIRN_KEY_FILE"]),
        ] {
            let Choice::Neither(line, from) = choose(agent(source), store(source)) else {
                panic!("a choice was made");
            };
            assert_eq!(from, source);
            assert!(names.iter().all(|name| line.contains(name)), "{line}");
        }
    }
}
