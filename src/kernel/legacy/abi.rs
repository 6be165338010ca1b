//! Numbers and layouts of the legacy xtables interface: `linux/netfilter/x_tables.h`,
//! `linux/netfilter_ipv4/ip_tables.h`, `linux/netfilter_ipv6/ip6_tables.h`.
//!
//! Both families have the same structures but for the head of an entry, so that one code reads and writes both with
//! the offsets of [`Layout`]. Integers are in host order unless a name ends in `_be`.

use crate::ruleset::Family;

#[cfg(not(target_pointer_width = "64"))]
compile_error!("the legacy xtables structures are laid out here for 64 bit kernels and programs");

/// `IPT_SO_GET_INFO`, `IP6T_SO_GET_INFO`
pub(super) const GET_INFO: i32 = 64;
/// `IPT_SO_GET_ENTRIES`, `IP6T_SO_GET_ENTRIES`
pub(super) const GET_ENTRIES: i32 = 65;
/// `IPT_SO_SET_REPLACE`, `IP6T_SO_SET_REPLACE`
pub(super) const SET_REPLACE: i32 = 64;
/// `IPT_SO_SET_ADD_COUNTERS`, `IP6T_SO_SET_ADD_COUNTERS`
pub(super) const SET_ADD_COUNTERS: i32 = 65;

/// More counters than the kernel makes room for (`XT_MAX_TABLE_SIZE`, 512 MiB, in counters of 16 bytes), and fewer than it refuses
/// before it looks at the entries.
pub(super) const TOO_MANY_COUNTERS: u32 = 1 << 26;

/// `XT_EXTENSION_MAXNAMELEN`
pub(super) const EXTENSION_NAME_LEN: usize = 29;
/// `NF_INET_NUMHOOKS`
pub(super) const HOOKS: usize = 5;

/// Size of `struct xt_entry_match` and `struct xt_entry_target` without data: size u16, name\[29\], revision u8.
pub(super) const EXTENSION_HEAD: usize = 32;
/// Size of `struct xt_standard_target`: the head, a verdict, padding.
pub(super) const STANDARD_TARGET: usize = 40;
/// Size of `struct xt_error_target`: the head, a name\[30\], padding.
pub(super) const ERROR_TARGET: usize = 64;
/// The name of the target that heads a chain and ends a table (`XT_ERROR_TARGET`).
pub(super) const ERROR_NAME: &str = "ERROR";
/// Everything in a table's blob is a multiple of this.
pub(super) const ALIGNMENT: usize = 8;

/// `-NF_ACCEPT - 1`
pub(super) const VERDICT_ACCEPT: i32 = -2;
/// `-NF_DROP - 1`
pub(super) const VERDICT_DROP: i32 = -1;
/// `XT_RETURN`
pub(super) const VERDICT_RETURN: i32 = -5;

/// `struct ipt_getinfo`: offsets and size.
pub(super) mod getinfo {
    pub(crate) const VALID_HOOKS: usize = 32;
    pub(crate) const HOOK_ENTRY: usize = 36;
    pub(crate) const UNDERFLOW: usize = 56;
    pub(crate) const NUM_ENTRIES: usize = 76;
    pub(crate) const SIZE_OF_ENTRIES: usize = 80;
    pub(crate) const SIZE: usize = 84;
}

/// `struct ipt_get_entries`: the table's name, the size u32 and the entries.
pub(super) mod get_entries {
    pub(crate) const SIZE_OF_ENTRIES: usize = 32;
    pub(crate) const ENTRIES: usize = 40;
}

/// `struct ipt_replace`: offsets; the entries follow at its end.
pub(super) mod replace {
    pub(crate) const VALID_HOOKS: usize = 32;
    pub(crate) const NUM_ENTRIES: usize = 36;
    pub(crate) const SIZE_OF_ENTRIES: usize = 40;
    pub(crate) const HOOK_ENTRY: usize = 44;
    pub(crate) const UNDERFLOW: usize = 64;
    pub(crate) const NUM_COUNTERS: usize = 84;
    pub(crate) const COUNTERS: usize = 88;
    pub(crate) const ENTRIES: usize = 96;
}

/// `struct xt_counters_info`: the table's name, their number u32 and the counters.
pub(super) mod counters_info {
    pub(crate) const NUM_COUNTERS: usize = 32;
    pub(crate) const COUNTERS: usize = 40;
}

/// Where things are in `struct ipt_entry` or `struct ip6t_entry`.
#[derive(Debug)]
pub(super) struct Layout {
    /// Length of an address.
    pub(super) address: usize,
    /// `src`; `dst`, `smsk` and `dmsk` follow it.
    pub(super) source: usize,
    /// `iniface`; `outiface`, `iniface_mask` and `outiface_mask` follow it, 16 bytes each.
    pub(super) in_interface: usize,
    /// `proto` u16.
    pub(super) protocol: usize,
    /// Bytes after `proto` that only foreign rules use (`tos` of IPv6), up to `flags`.
    pub(super) flags: usize,
    /// `invflags` u8.
    pub(super) inversions: usize,
    /// `nfcache` u32.
    pub(super) nfcache: usize,
    /// `target_offset` u16; `next_offset` u16 follows it.
    pub(super) target_offset: usize,
    /// `comefrom` u32, the kernel's own.
    pub(super) comefrom: usize,
    /// `counters`.
    pub(super) counters: usize,
    /// Size of the entry's head: matches begin here.
    pub(super) size: usize,
    /// The `flags` bit that says that `proto` is looked at (`IP6T_F_PROTO`; IPv4 needs none).
    pub(super) flag_protocol: u8,
    /// The `flags` bit that makes a jump a goto (`IPT_F_GOTO`, `IP6T_F_GOTO`).
    pub(super) flag_goto: u8,
}

const V4: Layout = Layout {
    address: 4,
    source: 0,
    in_interface: 16,
    protocol: 80,
    flags: 82,
    inversions: 83,
    nfcache: 84,
    target_offset: 88,
    comefrom: 92,
    counters: 96,
    size: 112,
    flag_protocol: 0,
    flag_goto: 2,
};

const V6: Layout = Layout {
    address: 16,
    source: 0,
    in_interface: 64,
    protocol: 128,
    flags: 131,
    inversions: 132,
    nfcache: 136,
    target_offset: 140,
    comefrom: 144,
    counters: 152,
    size: 168,
    flag_protocol: 1,
    flag_goto: 4,
};

impl Layout {
    pub(super) fn of(family: Family) -> &'static Layout {
        match family {
            Family::V4 => &V4,
            Family::V6 => &V6,
        }
    }
}

/// `IPT_INV_VIA_IN`, `IPT_INV_VIA_OUT`, `IPT_INV_SRCIP`, `IPT_INV_DSTIP`, `XT_INV_PROTO`: the same in both families.
pub(super) mod inversion {
    pub(crate) const IN: u8 = 0x01;
    pub(crate) const OUT: u8 = 0x02;
    pub(crate) const SOURCE: u8 = 0x08;
    pub(crate) const DESTINATION: u8 = 0x10;
    pub(crate) const PROTOCOL: u8 = 0x40;
}

/// The `nfcache` of an entry that mesh-init wrote. The kernel and iptables carry the field along and look at it
/// nowhere, so that it says whose a rule is without changing what `iptables-save` prints.
pub(super) const TAG: u32 = u32::from_be_bytes(*b"mesh");

/// `size` rounded up to [`ALIGNMENT`].
pub(super) const fn aligned(size: usize) -> usize {
    size.next_multiple_of(ALIGNMENT)
}
