//! What of a restored directory's settings surprises whoever starts it.

use super::conf::Configuration;
use crate::server::{Advice, Severity, advice_of};

/// Looks at settings that [`super::edit_auto_conf`] and [`super::forbid_archiving`] leave alone.
#[must_use]
pub fn recovery_advice(existing: Configuration<'_>) -> Vec<Advice> {
    let mut all = Vec::new();
    let set = |name| existing.value(name).filter(|value| !value.is_empty());
    if let Some(directory) = set("data_directory") {
        all.push(advice_of(
            Severity::Warning,
            "data_directory",
            format!(
                "{}: a server started here runs on that directory, not on the restored one: remove the line",
                String::from_utf8_lossy(&directory)
            ),
        ));
    }
    if let Some(names) = set("synchronous_standby_names") {
        all.push(advice_of(
            Severity::Warning,
            "synchronous_standby_names",
            format!(
                "{}: after promotion every commit waits for such a standby: alter system set \
                 synchronous_standby_names = ''",
                String::from_utf8_lossy(&names)
            ),
        ));
    }
    for setting in existing.includes() {
        all.push(advice_of(
            Severity::Note,
            &String::from_utf8_lossy(setting.name()),
            format!("{}: the restore does not look into it", String::from_utf8_lossy(&setting.value())),
        ));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_point_back_at_the_parent_are_named() {
        let existing = Configuration {
            postgresql_conf: b"data_directory = '/srv/parent'\nInclude_Dir 'conf.d'\nport = 1\n",
            auto_conf: b"synchronous_standby_names = 'capy'\n",
        };
        let found: Vec<String> = recovery_advice(existing).into_iter().map(|one| one.subject).collect();
        assert_eq!(found, ["data_directory", "synchronous_standby_names", "Include_Dir"]);
        let reset = Configuration { postgresql_conf: b"", auto_conf: b"synchronous_standby_names = ''" };
        assert_eq!(recovery_advice(reset), []);
    }
}
