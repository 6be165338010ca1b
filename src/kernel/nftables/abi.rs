//! Numbers of the nf_tables interface: `linux/netfilter/nfnetlink.h` and `linux/netfilter/nf_tables.h`.
//!
//! Numbers in attributes are in network order. What registers hold is as packets have it: addresses and ports in network
//! order, marks, ids, states and zones in the machine's.

use crate::ruleset::Family;

/// `NFNL_MSG_BATCH_BEGIN`
pub(super) const BATCH_BEGIN: u16 = 16;
/// `NFNL_MSG_BATCH_END`
pub(super) const BATCH_END: u16 = 17;
/// `NFNL_BATCH_GENID`
pub(super) const BATCH_GENID: u16 = 1;
/// `NFNL_SUBSYS_NFTABLES`
pub(super) const SUBSYSTEM: u16 = 10;

/// Message types, `enum nf_tables_msg_types`, with the subsystem.
pub(super) mod message {
    use super::SUBSYSTEM;

    pub(crate) const NEWTABLE: u16 = SUBSYSTEM << 8;
    pub(crate) const GETTABLE: u16 = SUBSYSTEM << 8 | 1;
    pub(crate) const DELTABLE: u16 = SUBSYSTEM << 8 | 2;
    pub(crate) const NEWCHAIN: u16 = SUBSYSTEM << 8 | 3;
    pub(crate) const GETCHAIN: u16 = SUBSYSTEM << 8 | 4;
    pub(crate) const DELCHAIN: u16 = SUBSYSTEM << 8 | 5;
    pub(crate) const NEWRULE: u16 = SUBSYSTEM << 8 | 6;
    pub(crate) const GETRULE: u16 = SUBSYSTEM << 8 | 7;
    pub(crate) const DELRULE: u16 = SUBSYSTEM << 8 | 8;
    pub(crate) const NEWSET: u16 = SUBSYSTEM << 8 | 9;
    pub(crate) const GETSET: u16 = SUBSYSTEM << 8 | 10;
    pub(crate) const NEWSETELEM: u16 = SUBSYSTEM << 8 | 12;
    pub(crate) const GETSETELEM: u16 = SUBSYSTEM << 8 | 13;
    pub(crate) const NEWGEN: u16 = SUBSYSTEM << 8 | 15;
    pub(crate) const GETGEN: u16 = SUBSYSTEM << 8 | 16;
    pub(crate) const NEWOBJ: u16 = SUBSYSTEM << 8 | 18;
    pub(crate) const GETOBJ: u16 = SUBSYSTEM << 8 | 19;
}

/// `NFTA_GEN_ID`
pub(super) const GEN_ID: u16 = 1;

/// Length of `struct nfgenmsg`: family u8, version u8, resource id in network order u16.
pub(super) const HEAD: usize = 4;

/// `struct nfgenmsg` for an address family (`NFPROTO_*`).
pub(super) const fn head(family: u8, resource: u16) -> [u8; HEAD] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

/// `NFPROTO_UNSPEC`
pub(super) const UNSPEC: u8 = 0;
/// `NFPROTO_INET`
pub(super) const INET: u8 = 1;
/// `NFPROTO_IPV4`
pub(super) const IPV4: u8 = 2;
/// `NFPROTO_IPV6`
pub(super) const IPV6: u8 = 10;

/// The family's number (`NFPROTO_*`).
pub(super) const fn number(family: Family) -> u8 {
    match family {
        Family::V4 => IPV4,
        Family::V6 => IPV6,
    }
}

/// The name that `nft` has for a family's number.
pub(super) fn family_name(number: u8) -> &'static str {
    match number {
        INET => "inet",
        IPV4 => "ip",
        IPV6 => "ip6",
        3 => "arp",
        5 => "netdev",
        7 => "bridge",
        _ => "unknown",
    }
}

/// `NFTA_TABLE_*`
pub(super) mod table {
    pub(crate) const NAME: u16 = 1;
    pub(crate) const FLAGS: u16 = 2;
    pub(crate) const USE: u16 = 3;
    pub(crate) const OWNER: u16 = 7;
}

/// `NFT_TABLE_F_DORMANT`: the table's chains catch nothing.
pub(super) const DORMANT: u32 = 1;
/// `NFT_TABLE_F_OWNER`: the table is one process's alone, and goes when that ends.
pub(super) const OWNED: u32 = 2;

/// `NFTA_OBJ_*`: counters, quotas and the like that rules refer to by name.
pub(super) mod object {
    pub(crate) const TABLE: u16 = 1;
    pub(crate) const NAME: u16 = 2;
    pub(crate) const TYPE: u16 = 3;
    pub(crate) const DATA: u16 = 4;
}

/// `NFTA_CHAIN_*`
pub(super) mod chain {
    pub(crate) const TABLE: u16 = 1;
    pub(crate) const NAME: u16 = 3;
    pub(crate) const HOOK: u16 = 4;
    pub(crate) const POLICY: u16 = 5;
    pub(crate) const TYPE: u16 = 7;
    /// In [`HOOK`]: `NFTA_HOOK_HOOKNUM`
    pub(crate) const HOOK_NUMBER: u16 = 1;
    /// In [`HOOK`]: `NFTA_HOOK_PRIORITY`
    pub(crate) const HOOK_PRIORITY: u16 = 2;
    /// In [`HOOK`]: `NFTA_HOOK_DEV`
    pub(crate) const HOOK_DEVICE: u16 = 3;
}

/// `NF_DROP` and `NF_ACCEPT`, a chain's policies and verdicts.
pub(super) const DROP: u32 = 0;
pub(super) const ACCEPT: u32 = 1;
/// `NFT_JUMP`
pub(super) const JUMP: u32 = -3_i32 as u32;
/// `NFT_GOTO`
pub(super) const GOTO: u32 = -4_i32 as u32;
/// `NFT_RETURN`
pub(super) const RETURN: u32 = -5_i32 as u32;

/// `NFTA_RULE_*`
pub(super) mod rule {
    pub(crate) const TABLE: u16 = 1;
    pub(crate) const CHAIN: u16 = 2;
    pub(crate) const HANDLE: u16 = 3;
    pub(crate) const EXPRESSIONS: u16 = 4;
    pub(crate) const COMPAT: u16 = 5;
    pub(crate) const POSITION: u16 = 6;
    pub(crate) const USERDATA: u16 = 7;
    /// In [`COMPAT`]: `NFTA_RULE_COMPAT_PROTO`
    pub(crate) const COMPAT_PROTOCOL: u16 = 1;
    /// In [`COMPAT`]: `NFTA_RULE_COMPAT_FLAGS`
    pub(crate) const COMPAT_FLAGS: u16 = 2;
}

/// `NFT_RULE_COMPAT_F_INV`: the protocol is negated.
pub(super) const COMPAT_INVERTED: u32 = 2;

/// `NFTA_SET_*`
pub(super) mod set {
    pub(crate) const TABLE: u16 = 1;
    pub(crate) const NAME: u16 = 2;
    pub(crate) const FLAGS: u16 = 3;
    pub(crate) const KEY_TYPE: u16 = 4;
    pub(crate) const KEY_LEN: u16 = 5;
    pub(crate) const ID: u16 = 10;
    pub(crate) const HANDLE: u16 = 16;
}

/// `NFT_SET_ANONYMOUS`, `NFT_SET_CONSTANT`, `NFT_SET_INTERVAL`, `NFT_SET_MAP`
pub(super) const SET_ANONYMOUS: u32 = 1;
pub(super) const SET_CONSTANT: u32 = 2;
pub(super) const SET_INTERVAL: u32 = 4;
#[cfg(any(test, fuzzing))]
pub(super) const SET_MAP: u32 = 8;

/// `NFTA_DYNSET_SET_NAME`
pub(super) const DYNSET_SET: u16 = 1;
/// `NFTA_OBJREF_SET_NAME`
pub(super) const OBJREF_SET: u16 = 4;

/// The names that `nft` has for the kinds of keys, which the kernel only keeps for it.
pub(super) const KEY_IPV4: u32 = 7;
pub(super) const KEY_IPV6: u32 = 8;
pub(super) const KEY_SERVICE: u32 = 13;

/// `NFTA_SET_ELEM_LIST_*`
pub(super) mod elements {
    pub(crate) const TABLE: u16 = 1;
    pub(crate) const SET: u16 = 2;
    pub(crate) const ELEMENTS: u16 = 3;
    pub(crate) const SET_ID: u16 = 4;
}

/// `NFTA_SET_ELEM_KEY`, `NFTA_SET_ELEM_FLAGS`, `NFTA_SET_ELEM_USERDATA`, `NFTA_SET_ELEM_PAD`
pub(super) const ELEMENT_KEY: u16 = 1;
pub(super) const ELEMENT_FLAGS: u16 = 3;
pub(super) const ELEMENT_USERDATA: u16 = 6;
pub(super) const ELEMENT_PAD: u16 = 8;
/// `NFT_SET_ELEM_INTERVAL_END`: the element is the first that is no more in the interval.
pub(super) const INTERVAL_END: u32 = 1;

/// `NFTA_LIST_ELEM`
pub(super) const LIST_ELEMENT: u16 = 1;
/// `NFTA_EXPR_NAME`, `NFTA_EXPR_DATA`
pub(super) const EXPRESSION_NAME: u16 = 1;
pub(super) const EXPRESSION_DATA: u16 = 2;
/// `NFTA_DATA_VALUE`, `NFTA_DATA_VERDICT`
pub(super) const DATA_VALUE: u16 = 1;
pub(super) const DATA_VERDICT: u16 = 2;
/// `NFTA_VERDICT_CODE`, `NFTA_VERDICT_CHAIN`
pub(super) const VERDICT_CODE: u16 = 1;
pub(super) const VERDICT_CHAIN: u16 = 2;
/// `NFT_REG_VERDICT`, `NFT_REG_1`
pub(super) const REGISTER_VERDICT: u32 = 0;
pub(super) const REGISTER: u32 = 1;

/// `NFTA_META_*`, `NFTA_CT_*`: what is loaded, and from which register it is set.
pub(super) const META_DREG: u16 = 1;
pub(super) const META_KEY: u16 = 2;
pub(super) const META_SREG: u16 = 3;
pub(super) const CT_DREG: u16 = 1;
pub(super) const CT_KEY: u16 = 2;
pub(super) const CT_DIRECTION: u16 = 3;
pub(super) const CT_SREG: u16 = 4;

/// `enum nft_meta_keys`
pub(super) mod meta {
    pub(crate) const MARK: u32 = 3;
    pub(crate) const IN_NAME: u32 = 6;
    pub(crate) const OUT_NAME: u32 = 7;
    pub(crate) const SOCKET_UID: u32 = 10;
    pub(crate) const SOCKET_GID: u32 = 11;
    pub(crate) const NFPROTO: u32 = 15;
    pub(crate) const L4PROTO: u32 = 16;
}

/// `enum nft_ct_keys`
pub(super) mod ct {
    pub(crate) const STATE: u32 = 0;
    pub(crate) const MARK: u32 = 3;
    pub(crate) const ZONE: u32 = 17;
}

/// `NFTA_CMP_*`
pub(super) mod cmp {
    pub(crate) const SREG: u16 = 1;
    pub(crate) const OPERATION: u16 = 2;
    pub(crate) const DATA: u16 = 3;
    pub(crate) const EQUAL: u32 = 0;
    pub(crate) const UNEQUAL: u32 = 1;
    pub(crate) const AT_MOST: u32 = 3;
    pub(crate) const AT_LEAST: u32 = 5;
}

/// `NFTA_RANGE_*`
pub(super) mod range {
    pub(crate) const SREG: u16 = 1;
    pub(crate) const OPERATION: u16 = 2;
    pub(crate) const FROM: u16 = 3;
    pub(crate) const TO: u16 = 4;
}

/// `NFTA_EXTHDR_SREG`
pub(super) const EXTHDR_SREG: u16 = 7;

/// `NFTA_PAYLOAD_*`
pub(super) mod payload {
    pub(crate) const DREG: u16 = 1;
    pub(crate) const BASE: u16 = 2;
    pub(crate) const OFFSET: u16 = 3;
    pub(crate) const LEN: u16 = 4;
    pub(crate) const SREG: u16 = 5;
    /// `NFT_PAYLOAD_NETWORK_HEADER`
    pub(crate) const NETWORK: u32 = 1;
    /// `NFT_PAYLOAD_TRANSPORT_HEADER`
    pub(crate) const TRANSPORT: u32 = 2;
}

/// `NFTA_BITWISE_*`
pub(super) mod bitwise {
    pub(crate) const SREG: u16 = 1;
    pub(crate) const DREG: u16 = 2;
    pub(crate) const LEN: u16 = 3;
    pub(crate) const MASK: u16 = 4;
    pub(crate) const XOR: u16 = 5;
    pub(crate) const OPERATION: u16 = 6;
}

/// `NFTA_BYTEORDER_*`
pub(super) mod byteorder {
    pub(crate) const SREG: u16 = 1;
    pub(crate) const DREG: u16 = 2;
    pub(crate) const OPERATION: u16 = 3;
    pub(crate) const LEN: u16 = 4;
    pub(crate) const SIZE: u16 = 5;
    /// `NFT_BYTEORDER_HTON`
    pub(crate) const TO_NETWORK: u32 = 1;
}

/// `NFTA_LOOKUP_*`
pub(super) mod lookup {
    pub(crate) const SET: u16 = 1;
    pub(crate) const SREG: u16 = 2;
    pub(crate) const DREG: u16 = 3;
    pub(crate) const SET_ID: u16 = 4;
    pub(crate) const FLAGS: u16 = 5;
    /// `NFT_LOOKUP_F_INV`
    pub(crate) const INVERTED: u32 = 1;
}

/// `NFTA_IMMEDIATE_*`
pub(super) mod immediate {
    pub(crate) const DREG: u16 = 1;
    pub(crate) const DATA: u16 = 2;
}

/// `NFTA_COUNTER_*`
pub(super) mod counter {
    pub(crate) const BYTES: u16 = 1;
    pub(crate) const PACKETS: u16 = 2;
}

/// `NFTA_REDIR_*`
pub(super) mod redir {
    pub(crate) const REG_MIN: u16 = 1;
    pub(crate) const REG_MAX: u16 = 2;
    pub(crate) const FLAGS: u16 = 3;
    /// `NF_NAT_RANGE_PROTO_SPECIFIED`
    pub(crate) const PORT: u32 = 2;
}

/// `NFTA_TPROXY_*`
pub(super) mod tproxy {
    pub(crate) const FAMILY: u16 = 1;
    pub(crate) const REG_ADDRESS: u16 = 2;
    pub(crate) const REG_PORT: u16 = 3;
}

/// `NFTA_MATCH_*` and `NFTA_TARGET_*` of `linux/netfilter/nf_tables_compat.h`: an xtables extension.
pub(super) mod compat {
    pub(crate) const NAME: u16 = 1;
    pub(crate) const REVISION: u16 = 2;
    pub(crate) const INFO: u16 = 3;
}

/// The bits of `ct state` (`NF_CT_STATE_BIT`), in the order of [`crate::ruleset::StateSet::NAMES`].
pub(super) const STATE_BITS: [u32; 5] = [1, 8, 4, 2, 64];

/// In a rule's user data: the type of a comment (`NFTNL_UDATA_RULE_COMMENT`), a text with a NUL at its end.
pub(super) const USERDATA_COMMENT: u8 = 0;
/// The longest comment that `nft` takes, its NUL included.
pub(super) const COMMENT_SIZE: usize = 128;
