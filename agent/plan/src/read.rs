//! Reads the files that an image has for its agent, all of them TOML.
//!
//! Here, since code for reading is made of a type and a format: the agent, which is built anew for each of its lines,
//! finds it made.

use std::str::FromStr;

use crate::{Images, Override, Plan, Slots, Versions};

macro_rules! from_toml {
    ($($kind:ty),+) => {
        $(impl FromStr for $kind {
            type Err = toml::de::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                toml::from_str(text)
            }
        })+
    };
}

from_toml!(Images, Override, Plan, Slots, Versions);
