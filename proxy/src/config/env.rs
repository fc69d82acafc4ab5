//! Where configuration comes from, and how one variable is read: its text, its default, and what it should have been.

use std::{net::IpAddr, str::FromStr, time::Duration};

/// Where configuration text comes from.
pub(crate) trait Env {
    /// The text of a variable; `None` if it is not set or empty.
    fn get(&self, name: &str) -> Option<String>;
}

/// The environment of the process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProcessEnv;

impl Env for ProcessEnv {
    fn get(&self, name: &str) -> Option<String> {
        std::env::var(name).ok().filter(|v| !v.is_empty())
    }
}

/// A variable whose text cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// A required variable is absent.
    #[error("{name} is not set; it is needed to {why}")]
    Missing {
        /// The variable.
        name: &'static str,
        /// What it is for.
        why: &'static str,
    },
    /// The text is not of the variable's form.
    #[error("{name}={value:?} is not {expected}")]
    Invalid {
        /// The variable.
        name: &'static str,
        /// Its text.
        value: String,
        /// The form it should have, with an example.
        expected: &'static str,
    },
}

/// What is parsed as it stands.
pub(crate) fn parse<T: FromStr>(
    env: &impl Env,
    name: &'static str,
    default: &str,
    expected: &'static str,
) -> Result<T, ConfigError> {
    let value = env.get(name).unwrap_or_else(|| default.to_owned());
    value.parse().map_err(|_| ConfigError::Invalid { name, value, expected })
}

/// A number that is not 0.
pub(super) fn at_least_one<T: FromStr + PartialOrd + From<u8>>(
    env: &impl Env,
    name: &'static str,
    default: &str,
) -> Result<T, ConfigError> {
    const EXPECTED: &str = "a whole number of at least 1";
    let number: T = parse(env, name, default, EXPECTED)?;
    if number < T::from(1) {
        return Err(ConfigError::Invalid { name, value: "0".into(), expected: EXPECTED });
    }
    Ok(number)
}

/// A flow-control window, which HTTP/2 counts in 31 bits.
pub(super) fn window(env: &impl Env, name: &'static str, default: &str) -> Result<u32, ConfigError> {
    let size: u32 = at_least_one(env, name, default)?;
    i32::try_from(size).map_err(|_| ConfigError::Invalid {
        name,
        value: size.to_string(),
        expected: "a number of bytes below 2147483648 (2 GiB)",
    })?;
    Ok(size)
}

/// The longest duration that is read: longer than anything lasts, and short enough to be added to any moment.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// `1500ms`, `2s`, `10m`: numbers with units (`mesh_policy::duration`), and not zero.
pub(crate) fn duration(env: &impl Env, name: &'static str, default: &str) -> Result<Duration, ConfigError> {
    let value = env.get(name).unwrap_or_else(|| default.to_owned());
    let parsed = mesh_policy::duration::read(&value).map(|read| read.min(LONGEST));
    parsed.filter(|read| !read.is_zero()).ok_or(ConfigError::Invalid {
        name,
        value,
        expected: "a time such as 500ms, 2s or 10m",
    })
}

/// Most addresses of a pod: two in a dual-stack cluster, and some of other networks.
const MAX_POD_IPS: usize = 16;

/// IP addresses with commas between them.
pub(super) fn addresses(env: &impl Env, name: &'static str) -> Result<Vec<IpAddr>, ConfigError> {
    const EXPECTED: &str = "a list of at most 16 IP addresses such as 10.1.0.7,fd00::7";
    let value = env.get(name).unwrap_or_default();
    let items = value.split(',').map(str::trim).filter(|item| !item.is_empty());
    let all = items.map(|item| item.parse().ok()).collect::<Option<Vec<IpAddr>>>();
    all.filter(|all| all.len() <= MAX_POD_IPS).ok_or(ConfigError::Invalid { name, value, expected: EXPECTED })
}

/// `A=B` with commas between them.
pub(super) fn pairs<T>(
    env: &impl Env,
    name: &'static str,
    expected: &'static str,
    make: impl Fn(&str, &str) -> Option<T>,
) -> Result<Vec<T>, ConfigError> {
    let value = env.get(name).unwrap_or_default();
    value
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .map(|item| item.split_once('=').and_then(|(l, r)| make(l.trim(), r.trim())))
        .collect::<Option<Vec<T>>>()
        .ok_or(ConfigError::Invalid { name, value, expected })
}
