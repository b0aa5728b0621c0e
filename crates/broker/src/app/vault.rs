//! The minter of Vault and OpenBao, by its section.

use std::sync::Arc;

use grantwright_domain::Clock;
use grantwright_domain::time::parse_ttl;
use grantwright_mint::jwt::JwtIssuer;
use grantwright_mint::vault::{Login, VaultConfig, VaultMinter};

use crate::config::vault::{VaultLogin, VaultSection};
use crate::error::StartError;

pub(super) fn minter(
    section: &VaultSection,
    own: Option<Arc<JwtIssuer>>,
    clock: &Arc<dyn Clock>,
) -> Result<VaultMinter, StartError> {
    let login = match section.login.clone() {
        VaultLogin::Approle { mount, role_id_file, secret_id_file } => {
            Login::AppRole { mount, role_id_file, secret_id_file }
        }
        VaultLogin::Cert { mount, role } => Login::Cert { mount, role },
        VaultLogin::Jwt { mount, role, audience } => {
            let own = own.ok_or_else(|| {
                StartError::new("the login `jwt` wants a minter of kind `jwt`, whose key signs it")
            })?;
            let token = Arc::new(move |now| own.identity_token(&audience, now));
            Login::Jwt { mount, role, token }
        }
        VaultLogin::Kubernetes { mount, role, token_file } => {
            Login::Kubernetes { mount, role, token_file }
        }
        VaultLogin::Token { token_file } => Login::Token { file: token_file },
    };
    let timeout =
        parse_ttl(&section.timeout).map_err(|e| StartError::new(format!("timeout: {e}")))?;
    let config = VaultConfig {
        engine: section.engine().ok_or_else(|| StartError::new("there is no such engine"))?,
        wrap: section.wrap,
        address: section.address.clone(),
        namespace: section.namespace.clone(),
        ca_file: section.ca_file.clone(),
        identity: section.certificate_file.clone().zip(section.key_file.clone()),
        login,
        timeout: std::time::Duration::from_secs(timeout.into()),
        token_per_mint: section.token_per_mint,
    };
    VaultMinter::new(config, Arc::clone(clock)).map_err(|e| StartError::new(e.to_string()))
}
