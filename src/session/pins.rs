//! Why a session must keep its server connection.

use crate::sql::Pin;

/// The pins of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pins(u8);

impl Pins {
    /// None.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// One more; answers whether it is new.
    pub fn add(&mut self, pin: Pin) -> bool {
        let before = self.0;
        self.0 |= bit(pin);
        self.0 != before
    }

    /// It is one of them.
    pub fn has(self, pin: Pin) -> bool {
        self.0 & bit(pin) != 0
    }

    /// The node can be asked whether one of them has a cause still.
    pub fn can_be_seen(self) -> bool {
        self.0 & visible() != 0
    }

    /// Of those whose cause can be seen, these have one.
    pub fn are_seen(&mut self, seen: Self) {
        self.0 = self.0 & !visible() | seen.0;
    }

    /// DISCARD ALL has ended them; what is loaded or kept stays.
    pub fn discard(&mut self) {
        self.0 &= bit(Pin::Load) | bit(Pin::State);
    }

    /// DISCARD ALL would end them all.
    pub fn can_be_discarded(self) -> bool {
        self.0 & (bit(Pin::Load) | bit(Pin::State)) == 0
    }

    /// Those that are not among these.
    pub fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    /// All of them.
    pub fn iter(self) -> impl Iterator<Item = Pin> {
        Pin::ALL.into_iter().filter(move |&pin| self.has(pin))
    }

    /// One of them, to be named as the reason.
    pub fn first(self) -> Option<Pin> {
        self.iter().next()
    }
}

/// Those whose cause the node shows.
const VISIBLE: [Pin; 4] = [Pin::Temporary, Pin::Listen, Pin::AdvisoryLock, Pin::HoldCursor];

fn visible() -> u8 {
    VISIBLE.into_iter().fold(0, |bits, pin| bits | bit(pin))
}

fn bit(pin: Pin) -> u8 {
    1 << (pin as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pin_has_its_own_bit() {
        let mut pins = Pins::default();
        for pin in Pin::ALL {
            assert!(pins.add(pin));
            assert!(!pins.add(pin));
        }
        assert_eq!(pins.first(), Some(Pin::Temporary));
        pins.are_seen(Pins::default());
        assert!(!pins.can_be_seen() && !pins.has(Pin::Listen) && pins.has(Pin::Load));
        pins.discard();
        assert_eq!(pins.first(), Some(Pin::Load));
    }
}
