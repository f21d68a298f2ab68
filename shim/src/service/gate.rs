//! Whether the card counts as up: one look that goes the other way changes nothing.

/// Looks at the card, counted.
#[derive(Debug, Clone)]
pub struct Gate {
    is_open: bool,
    /// How many looks in a row went the other way.
    row: u32,
    down_after: u32,
    up_after: u32,
}

impl Gate {
    /// A gate that is open, or else opens at the first look that is good: nothing is known that speaks
    /// against it.
    pub fn new(is_open: bool, down_after: u32, up_after: u32) -> Self {
        let row = if is_open { 0 } else { up_after.saturating_sub(1) };
        Self { is_open, row, down_after, up_after }
    }

    /// Takes a look into account, and says whether the gate is open then.
    pub fn look(&mut self, is_good: bool) -> bool {
        if is_good == self.is_open {
            self.row = 0;
            return self.is_open;
        }
        self.row += 1;
        let enough = if self.is_open { self.down_after } else { self.up_after };
        if self.row >= enough {
            self.is_open = is_good;
            self.row = 0;
        }
        self.is_open
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn walk(mut gate: Gate, looks: &str) -> String {
        looks.chars().map(|look| if gate.look(look == '+') { '+' } else { '-' }).collect()
    }

    #[test]
    fn it_takes_several_looks_to_change() {
        assert_eq!(walk(Gate::new(true, 3, 2), "+-+--+---+-++"), "++++++++----+");
        assert_eq!(walk(Gate::new(false, 3, 2), "+"), "+", "the first look of all counts at once");
        assert_eq!(walk(Gate::new(false, 3, 2), "-+-++"), "----+", "but not where it was bad");
    }

    proptest! {
        #[test]
        fn it_changes_only_with_a_look_that_goes_the_other_way(looks: Vec<bool>, down in 1_u32..5, up in 1_u32..5) {
            let mut gate = Gate::new(true, down, up);
            let mut before = true;
            for look in looks {
                let now = gate.look(look);
                prop_assert!(now == before || now == look);
                before = now;
            }
        }
    }
}
