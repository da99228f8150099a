//! How far to read ahead.
//!
//! A program that reads on from where it stopped will probably go on; one that jumps will not. The window begins with the
//! first read at the start of a file, doubles with each step forwards and closes at a jump. Parallel requests of the kernel's own
//! read-ahead arrive slightly out of order, so a small step back is still "on".

use std::ops::Range;

use super::read::BLOCK;

/// First window: a small file comes whole with its first read.
const FIRST: u64 = 4 * BLOCK;
/// Widest window. At 100 ms a round trip it keeps a line of 1.3 Gbit/s full.
const WIDEST: u64 = 16 * BLOCK;
/// How far from the expected place a read may be and still count as going on.
const NEAR: u64 = 4 * BLOCK;

#[derive(Debug, Default)]
pub(super) struct Window {
    /// Where the next read is expected.
    next: u64,
    /// Bytes to read ahead of it; 0: not sequential.
    width: u64,
    /// Read-ahead was asked for up to here.
    asked: u64,
}

impl Window {
    /// Takes note of a read of `offset..end` and returns the blocks to have ready after it.
    pub(super) fn advance(&mut self, offset: u64, end: u64, size: u64) -> Range<u64> {
        let near = offset <= self.next.saturating_add(NEAR) && offset.saturating_add(NEAR) >= self.next;
        if offset == 0 && self.next == 0 {
            self.width = FIRST;
        } else if near {
            if end > self.next {
                self.width = (self.width.max(BLOCK) * 2).min(WIDEST);
            }
        } else {
            self.width = 0;
        }
        self.next = match near {
            true => self.next.max(end),
            false => end,
        };
        if !near {
            self.asked = self.next;
        }
        // Asked for in large runs: a new one when half of the window is used up.
        let wanted = self.next.saturating_add(self.width).min(size);
        let enough = self.next.saturating_add(self.width / 2).min(size);
        let from = self.asked.max(self.next).div_ceil(BLOCK);
        if self.asked >= enough {
            return from..from;
        }
        self.asked = wanted;
        let to = wanted.div_ceil(BLOCK);
        from..to.max(from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 100 * BLOCK;

    #[test]
    fn a_stream_widens_the_window_and_a_jump_closes_it() {
        let mut window = Window::default();
        let step = 128 * 1024;
        let first = window.advance(0, step, SIZE);
        assert_eq!(first, 1..5, "the first read brings the first {FIRST} bytes and a bit");
        let (mut runs, mut asked) = (0, first.end);
        for i in 1..400 {
            let ahead = window.advance(i * step, (i + 1) * step, SIZE);
            if !ahead.is_empty() {
                assert_eq!(ahead.start, asked, "no gap, nothing twice");
                asked = ahead.end;
                runs += 1;
            }
        }
        assert!(asked * BLOCK > 400 * step + WIDEST / 2, "ahead by {} bytes", asked * BLOCK - 400 * step);
        assert!(runs < 12, "in large runs: {runs}");
        let jump = window.advance(90 * BLOCK, 90 * BLOCK + step, SIZE);
        assert!(jump.is_empty(), "{jump:?}");
        let back = window.advance(3, 100, SIZE);
        assert!(back.is_empty(), "{back:?}");
    }

    #[test]
    fn reads_out_of_order_by_a_little_are_still_a_stream() {
        let mut window = Window::default();
        window.advance(0, BLOCK, SIZE);
        window.advance(2 * BLOCK, 3 * BLOCK, SIZE);
        window.advance(BLOCK, 2 * BLOCK, SIZE);
        let ahead: u64 =
            (3..9).map(|i| window.advance(i * BLOCK, (i + 1) * BLOCK, SIZE)).map(|r| r.end - r.start).sum();
        assert!(ahead > 4, "still a stream: {ahead}");
    }

    #[test]
    fn nothing_is_read_ahead_beyond_the_end() {
        let mut window = Window::default();
        let ahead = window.advance(0, 1000, 2000);
        assert!(ahead.end <= 1, "{ahead:?}");
    }
}
