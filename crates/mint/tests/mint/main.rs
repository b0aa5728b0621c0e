//! Minters from outside: the conformance suite, tokens verified by another path, a hostile STS.

#[cfg(test)]
mod authorities;
#[cfg(test)]
mod clouds;
#[cfg(test)]
mod docs;
#[cfg(test)]
mod engines;
#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod jwt;
#[cfg(test)]
mod server;
#[cfg(test)]
mod ssh;
#[cfg(test)]
mod sts;
#[cfg(test)]
mod subset;
#[cfg(test)]
mod subset_clouds;
mod subset_named;
#[cfg(test)]
mod template;
#[cfg(test)]
mod vault;
#[cfg(test)]
mod x509;
