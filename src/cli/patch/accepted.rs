//! Whether mesh-init takes a container's arguments in the place of the original.

use std::ffi::OsString;

use crate::cli::options::{Common, OPTIONS};
use crate::cli::{flags, help};
use crate::manifest::Original;
use crate::mesh::linkerd::validator;
use crate::mesh::{Mesh, istio, linkerd};

/// Reads the arguments as the drop-in does, and says why it would not take them.
pub(super) fn accepts(original: Original, words: &[String], environment: &dyn Fn(&str) -> Option<String>) -> Result<(), String> {
    let arguments: Vec<OsString> = words.iter().map(OsString::from).collect();
    let (own, command) = match original {
        Original::Installer(mesh) => (help::mesh_flags(mesh), help::drop_in(mesh, &arguments)),
        Original::Validator => (validator::FLAGS, help::validator(&arguments)),
    };
    let matches = command.try_get_matches_from(&arguments).map_err(|error| flags::one_line(&error, &arguments, &[own, OPTIONS]))?;
    Common::new(&matches, own, environment).map_err(|error| error.to_string())?;
    let given = flags::read(own, &matches, environment);
    match original {
        Original::Installer(Mesh::Istio) => istio::Options::new(&given).map(|_| ()).map_err(|error| error.to_string()),
        Original::Installer(Mesh::Linkerd) => linkerd::Options::new(&given).map(|_| ()).map_err(|error| error.to_string()),
        Original::Validator => validator::Options::new(&given).map(|_| ()).map_err(|error| error.to_string()),
    }
}
