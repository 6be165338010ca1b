//! What the patch is told.

use std::fmt;

use serde_json::{Map, Value};

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

/// A program that mesh-init stands in for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Original {
    /// The one that installs a mesh's rules.
    Installer(Mesh),
    /// linkerd2-network-validator.
    Validator,
}

/// Says why mesh-init would not take the arguments, given the environment.
pub type Accepts = fn(Original, &[String], &dyn Fn(&str) -> Option<String>) -> Result<(), String>;

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
pub enum BadResources {
    /// An item of another form.
    #[error(
        "{0:?} is not RESOURCE=QUANTITY with cpu, memory or ephemeral-storage, as in cpu=10m,memory=16Mi or requests.cpu=10m,limits.memory=16Mi"
    )]
    Item(String),
    /// More is asked for than is allowed.
    #[error("requests.{name}={request} is more than limits.{name}={limit}")]
    Order {
        /// The resource.
        name: String,
        /// The request.
        request: String,
        /// The limit.
        limit: String,
    },
}

/// What can be told of.
const NAMES: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

impl Resources {
    /// Reads `cpu=10m,memory=16Mi`, which is request and limit both, or `requests.cpu=10m,limits.memory=16Mi`.
    pub fn parse(text: &str) -> Result<Resources, BadResources> {
        let mut resources = Resources::default();
        for item in text.split(',') {
            let bad = || BadResources::Item(item.to_owned());
            let (name, quantity) = item.split_once('=').ok_or_else(bad)?;
            let (sides, name): (&[Side], &str) = match name.split_once('.') {
                Some(("requests", name)) => (&[Side::Requests], name),
                Some(("limits", name)) => (&[Side::Limits], name),
                _ => (&[Side::Requests, Side::Limits], name),
            };
            if !NAMES.contains(&name) || amount(quantity).is_none() {
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
        for name in NAMES {
            let text = |side: &Map<String, Value>| side.get(name).and_then(Value::as_str).map(str::to_owned);
            if let (Some(request), Some(limit)) = (text(&resources.requests), text(&resources.limits))
                && amount(&request) > amount(&limit)
            {
                return Err(BadResources::Order { name: name.to_owned(), request, limit });
            }
        }
        Ok(resources)
    }

    /// As a container has them that had `old`: what cannot be told of here, such as devices, stays.
    pub(super) fn value(&self, old: &Map<String, Value>) -> Value {
        let mut fields = old.clone();
        for (key, side) in [("limits", &self.limits), ("requests", &self.requests)] {
            let others = old.get(key).and_then(Value::as_object).into_iter().flatten();
            let mut amounts: Map<String, Value> =
                others.filter(|(name, _)| !NAMES.contains(&name.as_str())).map(|(name, amount)| (name.clone(), amount.clone())).collect();
            amounts.extend(side.clone());
            if amounts.is_empty() {
                fields.remove(key);
            } else {
                fields.insert(key.to_owned(), Value::Object(amounts));
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

/// The amount that Kubernetes takes it for: a number with a suffix or an exponent.
fn amount(text: &str) -> Option<f64> {
    let digits = text.find(|char: char| !char.is_ascii_digit() && char != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let (exponent, binary) = match suffix {
        "" => (0, 0),
        "n" => (-9, 0),
        "u" => (-6, 0),
        "m" => (-3, 0),
        "k" => (3, 0),
        "M" => (6, 0),
        "G" => (9, 0),
        "T" => (12, 0),
        "P" => (15, 0),
        "E" => (18, 0),
        "Ki" => (0, 1),
        "Mi" => (0, 2),
        "Gi" => (0, 3),
        "Ti" => (0, 4),
        "Pi" => (0, 5),
        "Ei" => (0, 6),
        _ => (suffix.strip_prefix(['e', 'E'])?.parse::<i8>().ok()?, 0),
    };
    number.starts_with(|first: char| first.is_ascii_digit()).then_some(())?;
    // Read as one number, so that equal amounts are equal however they are written.
    format!("{number}e{exponent}").parse::<f64>().ok().map(|amount| amount * 1024f64.powi(binary))
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
    use serde_json::json;

    use super::*;

    #[test]
    fn resources_are_requests_and_limits_both_or_one_of_them() {
        let value = |text| Resources::parse(text).unwrap().value(&Map::new());
        assert_eq!(value("cpu=10m"), json!({"requests": {"cpu": "10m"}, "limits": {"cpu": "10m"}}));
        assert_eq!(value("requests.cpu=1,memory=16Mi"), json!({"requests": {"cpu": "1", "memory": "16Mi"}, "limits": {"memory": "16Mi"}}));
    }

    #[test]
    fn what_cannot_be_told_of_stays() {
        let old = json!({
            "claims": [{"name": "c"}],
            "limits": {"cpu": "1", "nvidia.com/gpu": 1},
            "requests": {"memory": "1Gi", "hugepages-2Mi": "2Mi"},
        });
        let value = |text, old: &Value| Resources::parse(text).unwrap().value(old.as_object().unwrap());
        assert_eq!(
            value("requests.cpu=10m", &old),
            json!({"claims": [{"name": "c"}], "limits": {"nvidia.com/gpu": 1}, "requests": {"cpu": "10m", "hugepages-2Mi": "2Mi"}})
        );
        assert_eq!(value("requests.cpu=10m", &json!({"limits": {"cpu": "1"}})), json!({"requests": {"cpu": "10m"}}));
    }

    #[test]
    fn a_request_is_at_most_its_limit() {
        let said = |text: &str| Resources::parse(text).unwrap_err().to_string();
        assert_eq!(said("requests.cpu=2,limits.cpu=1"), "requests.cpu=2 is more than limits.cpu=1");
        assert_eq!(said("limits.memory=1Gi,requests.memory=1025Mi"), "requests.memory=1025Mi is more than limits.memory=1Gi");
        for text in [
            "requests.cpu=700m,limits.cpu=0.7",
            "requests.cpu=0.7,limits.cpu=700m",
            "requests.memory=1Gi,limits.memory=1024Mi",
            "requests.memory=999999k,limits.memory=1e9",
            "requests.cpu=2,limits.memory=1",
            "cpu=1e3",
            "cpu=1E3,memory=1e+3",
            "cpu=1e-3",
            "memory=1E",
            "cpu=1Ki,memory=10m",
        ] {
            assert!(Resources::parse(text).is_ok(), "{text}");
        }
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
            "cpu=1e",
            "cpu=1e1.5",
            "cpu=1e3m",
            "cpu=e3",
            "cpu=1e999",
        ] {
            assert!(Resources::parse(text).is_err(), "{text}");
        }
    }
}
