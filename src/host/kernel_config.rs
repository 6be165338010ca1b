//! The running kernel's configuration, where it tells it: `/proc/config.gz`.

use super::machine::Machine;
use super::{files, gzip};

/// The text of a configuration.
#[derive(Clone, Debug)]
pub struct KernelConfig(String);

impl KernelConfig {
    /// The kernel's, if it has it to show.
    pub fn read(machine: &Machine) -> Option<KernelConfig> {
        let packed = files::read(&machine.path("config.gz")).ok()?;
        String::from_utf8(gzip::unpack(&packed, files::LIMIT as usize)?).ok().map(KernelConfig)
    }

    /// What an option (`CONFIG_IP_NF_NAT`) is set to: `y`, `m` or a value; nothing if it is not set.
    pub fn get(&self, option: &str) -> Option<&str> {
        self.0.lines().find_map(|line| line.strip_prefix(option)?.strip_prefix('='))
    }
}
