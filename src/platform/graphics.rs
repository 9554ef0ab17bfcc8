//! What the system grants this process of a graphics card's memory. Windows keeps such an account.
//! Over it, the system moves memory between the card and the host by itself, and no call fails.

/// A card by the number that the system's graphics know it by, and its place where several are
/// linked.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(unix, expect(dead_code, reason = "nobody asks for it there"))]
pub(crate) struct Card {
    pub(crate) luid: [u8; 8],
    pub(crate) node: u32,
}

/// The budget of the card's own memory, and that of the host's memory for the card. Each comes with
/// what the process uses of it. Bytes.
pub(crate) type Budgets = [(u64, u64); 2];
