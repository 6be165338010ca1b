//! What the patch is told.

use std::fmt;

use serde_json::{Map, Value, json};

use crate::mesh::Mesh;

/// The image that takes the place of the originals', unless another is named.
pub const DEFAULT_IMAGE: &str = concat!("ghcr.io/mesh-init/mesh-init:", env!("CARGO_PKG_VERSION"));

/// What the patch is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The image that has mesh-init.
    pub image: String,
    /// Leave the init container to a user other than root: the image's file capability has to do.
    pub non_root: bool,
    /// What the init container may and wants to use.
    pub resources: Option<Resources>,
    /// Containers that stay privileged.
    pub keep_privileged: Vec<String>,
    /// How the pods get into a Kata Containers guest.
    pub kata: Option<Kata>,
    /// Whether mesh-init takes these arguments in the place of the original.
    pub accepts: Accepts,
}

/// Says why mesh-init would not take the arguments, given the environment.
pub type Accepts = fn(Mesh, &[String], &dyn Fn(&str) -> Option<String>) -> Result<(), String>;

/// How a pod gets into a Kata Containers guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kata {
    /// By the runtime class of this name.
    RuntimeClass(String),
    /// By CRI-O's annotation of old.
    CriO,
    /// By containerd's annotation of old.
    Containerd,
}

impl Kata {
    /// The annotation and its value, of those that are asked for by one.
    pub(super) fn annotation(&self) -> Option<(&'static str, &'static str)> {
        match self {
            Kata::RuntimeClass(_) => None,
            Kata::CriO => Some(("io.kubernetes.cri-o.TrustedSandbox", "false")),
            Kata::Containerd => Some(("io.kubernetes.cri.untrusted-workload", "true")),
        }
    }
}

/// The init container's requests and limits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    requests: Map<String, Value>,
    limits: Map<String, Value>,
}

/// A text that is no [`Resources`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not RESOURCE=QUANTITY with cpu, memory or ephemeral-storage, as in cpu=10m,memory=16Mi or requests.cpu=10m,limits.memory=16Mi"
)]
pub struct BadResources(String);

impl Resources {
    /// Reads `cpu=10m,memory=16Mi`, which is request and limit both, or `requests.cpu=10m,limits.memory=16Mi`.
    pub fn parse(text: &str) -> Result<Resources, BadResources> {
        let mut resources = Resources::default();
        for item in text.split(',') {
            let bad = || BadResources(item.to_owned());
            let (name, quantity) = item.split_once('=').ok_or_else(bad)?;
            let (sides, name): (&[Side], &str) = match name.split_once('.') {
                Some(("requests", name)) => (&[Side::Requests], name),
                Some(("limits", name)) => (&[Side::Limits], name),
                _ => (&[Side::Requests, Side::Limits], name),
            };
            if !matches!(name, "cpu" | "memory" | "ephemeral-storage") || !is_quantity(quantity) {
                return Err(bad());
            }
            for side in sides {
                let fields = match side {
                    Side::Requests => &mut resources.requests,
                    Side::Limits => &mut resources.limits,
                };
                if fields.insert(name.to_owned(), Value::from(quantity)).is_some() {
                    return Err(bad());
                }
            }
        }
        Ok(resources)
    }

    /// As a container has them.
    pub(super) fn value(&self) -> Value {
        let mut fields = Map::new();
        for (key, side) in [("limits", &self.limits), ("requests", &self.requests)] {
            if !side.is_empty() {
                fields.insert(key.to_owned(), json!(side));
            }
        }
        Value::Object(fields)
    }
}

#[derive(Clone, Copy)]
enum Side {
    Requests,
    Limits,
}

/// Whether Kubernetes takes it for an amount: a number with a suffix.
fn is_quantity(text: &str) -> bool {
    let digits = text.find(|char: char| !char.is_ascii_digit() && char != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let suffixes = ["", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    number.starts_with(|first: char| first.is_ascii_digit()) && number.parse::<f64>().is_ok() && suffixes.contains(&suffix)
}

/// As it is typed.
impl fmt::Display for Kata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kata::RuntimeClass(name) => write!(f, "--runtime-class {name}"),
            Kata::CriO => f.write_str("--untrusted cri-o"),
            Kata::Containerd => f.write_str("--untrusted containerd"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_are_requests_and_limits_both_or_one_of_them() {
        let value = |text| Resources::parse(text).unwrap().value();
        assert_eq!(value("cpu=10m"), json!({"requests": {"cpu": "10m"}, "limits": {"cpu": "10m"}}));
        assert_eq!(value("requests.cpu=1,memory=16Mi"), json!({"requests": {"cpu": "1", "memory": "16Mi"}, "limits": {"memory": "16Mi"}}));
    }

    #[test]
    fn what_is_no_amount_is_refused() {
        for text in [
            "",
            "cpu",
            "cpu=",
            "cpu=m",
            "cpu=10mi",
            "cpu=-1",
            "cpu=.5",
            "gpu=1",
            "limits=1",
            "cpu=1,cpu=2",
            "cpu=1,",
            "request.cpu=1",
            "cpu=1.2.3",
        ] {
            assert!(Resources::parse(text).is_err(), "{text}");
        }
    }
}
