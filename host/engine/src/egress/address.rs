//! Which addresses a request may reach: public ones, and those in networks that the operator named. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// What is no place for a request of a function, and why. From IANA's registries of special-purpose addresses; the last
/// of them is a public address at which a cloud answers its machines.
const SPECIAL_V4: &[([u8; 4], u8, &str)] = &[
    ([0, 0, 0, 0], 8, "unspecified"),
    ([10, 0, 0, 0], 8, "private"),
    ([100, 64, 0, 0], 10, "a provider's own (CGNAT)"),
    ([127, 0, 0, 0], 8, "loopback"),
    ([169, 254, 0, 0], 16, "link-local, where clouds keep their metadata"),
    ([172, 16, 0, 0], 12, "private"),
    ([192, 0, 0, 0], 24, "reserved for protocols"),
    ([192, 0, 2, 0], 24, "for documentation"),
    ([192, 31, 196, 0], 24, "reserved for protocols"),
    ([192, 52, 193, 0], 24, "reserved for protocols"),
    ([192, 88, 99, 0], 24, "a 6to4 relay"),
    ([192, 168, 0, 0], 16, "private"),
    ([192, 175, 48, 0], 24, "reserved for protocols"),
    ([198, 18, 0, 0], 15, "for benchmarks"),
    ([198, 51, 100, 0], 24, "for documentation"),
    ([203, 0, 113, 0], 24, "for documentation"),
    ([224, 0, 0, 0], 4, "multicast"),
    ([240, 0, 0, 0], 4, "reserved, or broadcast"),
    ([168, 63, 129, 16], 32, "a cloud's metadata"),
];

/// The same for IPv6, where everything outside of `2000::/3` is refused anyhow: these have a word of their own.
const SPECIAL_V6: &[([u16; 8], u8, &str)] = &[
    ([0, 0, 0, 0, 0, 0, 0, 0], 128, "unspecified"),
    ([0, 0, 0, 0, 0, 0, 0, 1], 128, "loopback"),
    ([0, 0, 0, 0, 0, 0xffff, 0, 0], 96, "an IPv4 address in disguise (v4-mapped)"),
    ([0, 0, 0, 0, 0, 0, 0, 0], 96, "an IPv4 address in disguise (v4-compatible)"),
    ([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96, "an IPv4 address in disguise (NAT64)"),
    ([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48, "an IPv4 address in disguise (NAT64)"),
    ([0x2002, 0, 0, 0, 0, 0, 0, 0], 16, "an IPv4 address in disguise (6to4)"),
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 32, "an IPv4 address in disguise (Teredo)"),
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 23, "reserved for protocols"),
    ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32, "for documentation"),
    ([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20, "for documentation"),
    ([0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0], 48, "reserved for protocols"),
    ([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7, "private (unique local)"),
    ([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, "link-local"),
    ([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10, "private (site-local)"),
    ([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, "multicast"),
];

/// The word for an address that is not public; none for one that is.
pub(super) fn special(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(v4) => {
            let fits = |net: [u8; 4], bits: u8| {
                (u32::from(v4) ^ u32::from(Ipv4Addr::from(net))).checked_shr(32 - u32::from(bits)) == Some(0)
            };
            SPECIAL_V4.iter().find(|(net, bits, _)| fits(*net, *bits)).map(|(_, _, word)| *word)
        }
        IpAddr::V6(v6) => {
            let fits = |net: [u16; 8], bits: u8| {
                (u128::from(v6) ^ u128::from(Ipv6Addr::from(net))).checked_shr(128 - u32::from(bits)) == Some(0)
            };
            let named = SPECIAL_V6.iter().find(|(net, bits, _)| fits(*net, *bits)).map(|(_, _, word)| *word);
            named.or_else(|| (v6.segments()[0] & 0xe000 != 0x2000).then_some("outside of the public range"))
        }
    }
}

/// The networks that the operator opened to functions although they are not public.
#[derive(Debug, Default)]
pub(super) struct Networks(Vec<IpNet>);

impl Networks {
    pub(super) fn new(opened: Vec<IpNet>) -> Self {
        Self(opened)
    }

    /// Whether a request may reach this address. An IPv4 network says nothing of addresses that disguise one of its
    /// own: each range has to be opened by its own name.
    ///
    /// # Errors
    /// The word for what the address is.
    pub(super) fn check(&self, address: IpAddr) -> Result<(), &'static str> {
        match special(address) {
            Some(word) if !self.0.iter().any(|net| net.contains(&address)) => Err(word),
            Some(_) | None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn public_addresses_are_open() {
        for address in ["1.1.1.1", "8.8.8.8", "100.63.255.255", "100.128.0.0", "172.32.0.1", "223.255.255.255"] {
            assert_eq!(special(ip(address)), None, "{address}");
        }
        for address in ["2606:4700::1111", "2a00:1450:4001::1", "2001:200::1", "2001:4860:4860::8888"] {
            assert_eq!(special(ip(address)), None, "{address}");
        }
    }

    #[test]
    fn what_is_not_public_is_closed_at_both_ends_of_each_range() {
        for address in [
            "0.0.0.0",
            "0.255.255.255",
            "10.0.0.0",
            "10.255.255.255",
            "100.64.0.0",
            "100.100.100.200",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.255",
            "168.63.129.16",
            "169.254.169.254",
            "172.16.0.0",
            "172.31.255.255",
            "192.0.0.192",
            "192.88.99.1",
            "192.168.255.255",
            "198.18.0.0",
            "198.19.255.255",
            "203.0.113.7",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:8.8.8.8",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:1ff:ffff::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "3fff::1",
            "4000::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(special(ip(address)).is_some(), "{address}");
        }
    }

    #[test]
    fn the_operator_opens_a_range_by_its_own_name_and_nothing_beside_it() {
        let networks = Networks::new(vec!["10.1.0.0/16".parse().unwrap(), "::1/128".parse().unwrap()]);
        for address in ["10.1.2.3", "::1", "9.9.9.9"] {
            assert_eq!(networks.check(ip(address)), Ok(()), "{address}");
        }
        for address in ["10.2.0.1", "127.0.0.1", "::ffff:10.1.2.3", "64:ff9b::a01:203", "2002:a01:203::"] {
            assert!(networks.check(ip(address)).is_err(), "{address}");
        }
    }
}
