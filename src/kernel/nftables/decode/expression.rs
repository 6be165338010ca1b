//! One expression of a rule: its name and its attributes.

use super::super::abi::{self, compat, lookup};
use super::super::read::name_of;
use crate::kernel::netlink::wire::{Attribute, Attributes, Malformed};
use crate::ruleset::Opaque;

pub(super) struct Expression<'a> {
    pub(super) name: &'a str,
    pub(super) data: Attributes<'a>,
    bytes: &'a [u8],
}

impl<'a> Expression<'a> {
    pub(super) fn parse(element: Attribute<'a>) -> Result<Expression<'a>, Malformed> {
        let parts = element.nested();
        let name = parts.find(abi::EXPRESSION_NAME)?.ok_or(Malformed("expression without a name"))?.text()?;
        // Some have nothing to say.
        let bytes = parts.find(abi::EXPRESSION_DATA)?.map_or(&[][..], |data| data.value);
        Ok(Expression { name, data: Attributes::new(bytes), bytes })
    }

    pub(super) fn number(&self, kind: u16) -> Result<Option<u32>, Malformed> {
        self.data.find(kind)?.map(|attribute| attribute.u32_be()).transpose()
    }

    pub(super) fn has(&self, kind: u16) -> Result<bool, Malformed> {
        Ok(self.data.find(kind)?.is_some())
    }

    /// The value in `struct nft_data`.
    pub(super) fn value(&self, kind: u16) -> Result<Option<&'a [u8]>, Malformed> {
        let Some(data) = self.data.find(kind)? else { return Ok(None) };
        Ok(data.nested().find(abi::DATA_VALUE)?.map(|value| value.value))
    }

    pub(super) fn opaque(&self) -> Opaque {
        // What is looked up in says more than the look-up.
        let set = self.data.find(lookup::SET).ok().flatten().filter(|_| self.name == "lookup");
        let name = set.map_or_else(|| self.name.to_owned(), |set| format!("lookup in {}", name_of(&set)));
        Opaque { name, revision: 0, data: self.bytes.to_vec() }
    }
}

/// Name, revision and data of an xtables extension.
pub(super) type Extension<'a> = (&'a str, u8, &'a [u8]);

pub(super) fn xtables<'a>(expression: &Expression<'a>) -> Result<Option<Extension<'a>>, Malformed> {
    let name = expression.data.find(compat::NAME)?.map(|name| name.text()).transpose()?;
    let revision = expression.number(compat::REVISION)?.and_then(|revision| u8::try_from(revision).ok());
    let data = expression.data.find(compat::INFO)?.map(|info| info.value);
    Ok(name.zip(revision).zip(data).map(|((name, revision), data)| (name, revision, data)))
}
