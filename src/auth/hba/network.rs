//! Ranges of addresses.

use std::net::IpAddr;

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// `10.0.0.0/8` or `2001:db8::/32`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("expected a network as in \"10.0.0.0/8\", found {text:?}");
        let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let is_number = prefix.bytes().all(|byte| byte.is_ascii_digit());
        let prefix = prefix.parse::<u8>().ok().filter(|prefix| is_number && *prefix <= width(address));
        Ok(Self { address, prefix: prefix.ok_or_else(wrong)? })
    }

    /// An address and its mask.
    pub fn with_mask(address: &str, mask: &str) -> Result<Self, String> {
        let wrong = || format!("expected an address, found {address:?}");
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let ones = match mask.parse::<IpAddr>() {
            Ok(IpAddr::V4(mask)) if address.is_ipv4() => u128::from(u32::from(mask)) << 96,
            Ok(IpAddr::V6(mask)) if address.is_ipv6() => u128::from(mask),
            _ => return Err(format!("expected the mask of an address, found {mask:?}")),
        };
        let prefix = ones.leading_ones();
        if prefix < 128 && ones << prefix != 0 {
            return Err(format!("the mask {mask:?} has holes"));
        }
        Ok(Self { address, prefix: u8::try_from(prefix).unwrap_or(u8::MAX).min(width(address)) })
    }

    /// Whether an address is in it. One of IPv4 that came over IPv6 is one of IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let differs = match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => u128::from(u32::from(own) ^ u32::from(other)) << 96,
            (IpAddr::V6(own), IpAddr::V6(other)) => u128::from(own) ^ u128::from(other),
            _ => return false,
        };
        differs.leading_zeros() >= u32::from(self.prefix)
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}
