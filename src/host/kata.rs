//! Which kernels Kata has built for its guests, told apart by what they have.

use super::kernel_release::Release;

/// What a kernel has of packet filters; `None` for what is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filters {
    /// nf_tables.
    pub nftables: Option<bool>,
    /// The legacy packet filter of IPv4.
    pub legacy_v4: bool,
    /// The legacy packet filter of IPv6.
    pub legacy_v6: bool,
}

/// Since then the legacy packet filter has to be asked for when a kernel is configured.
const LEGACY_BY_CHOICE: [u32; 3] = [6, 17, 0];

/// The releases of Kata whose guest kernels have just these packet filters; `None` where none has, or where too little is
/// known. It is no proof: a guest may run any kernel.
pub fn generation(filters: Filters, release: Option<Release>) -> Option<&'static str> {
    match (filters.nftables?, filters.legacy_v4, filters.legacy_v6) {
        (false, true, false) => Some("2.0 to 3.20"),
        (true, true, false) => Some("3.21 or 3.22"),
        (true, true, true) if release?.number >= LEGACY_BY_CHOICE => Some("3.25 or later"),
        (true, true, true) => Some("3.23 or 3.24"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_generation_has_its_filters() {
        let of =
            |nftables, legacy_v4, legacy_v6, release: &str| generation(Filters { nftables, legacy_v4, legacy_v6 }, Release::parse(release));
        assert_eq!(of(Some(false), true, false, "6.12.42"), Some("2.0 to 3.20"));
        assert_eq!(of(Some(true), true, false, "6.12.47"), Some("3.21 or 3.22"));
        assert_eq!(of(Some(true), true, true, "6.12.47"), Some("3.23 or 3.24"));
        assert_eq!(of(Some(true), true, true, "6.18.35"), Some("3.25 or later"));
        assert_eq!(of(Some(true), false, false, "6.18.35"), None);
        assert_eq!(of(None, true, true, "6.18.35"), None);
        assert_eq!(of(Some(true), true, true, "?"), None);
    }
}
