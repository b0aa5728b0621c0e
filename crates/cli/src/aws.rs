//! `grantwright aws`: what an AWS account needs so that the broker can mint there. Offline.

use clap::Subcommand;
use serde_json::{Map, Value, json};

use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Look, Out, list};

/// `grantwright aws …`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print the IAM OIDC provider and the policies to paste.
    Setup(Setup),
}

/// What `setup` is told.
#[derive(Debug, clap::Args)]
pub struct Setup {
    /// The broker's `public_url`, which AWS fetches the broker's keys from: https, no port.
    #[arg(long)]
    issuer: Option<String>,
    /// Instead of an issuer: the ARN of the user or role whose key the broker has.
    #[arg(long, conflicts_with = "issuer")]
    principal: Option<String>,
    /// The account of the roles, 12 digits.
    #[arg(long)]
    account: String,
    /// A role that scopes name, with its path; may be given more than once.
    #[arg(long = "role", required = true)]
    roles: Vec<String>,
    /// Audience of the broker's identity tokens, the minter's `web_identity_audience`.
    #[arg(long, default_value = "sts.amazonaws.com")]
    audience: String,
    /// External id that the scopes' templates name.
    #[arg(long)]
    external_id: Option<String>,
    /// The partition: aws, aws-cn or aws-us-gov.
    #[arg(long, default_value = "aws")]
    partition: String,
}

/// Runs the command.
///
/// # Errors
/// When an argument is not of its form.
pub fn run(out: &Out, command: &Command) -> Outcome {
    let Command::Setup(setup) = command;
    let made = documents(setup).map_err(Failure::unable)?;
    if out.json {
        out.object(&made);
        return Ok(Exit::Done);
    }
    if let Some(provider) = made.get("oidc_provider") {
        out.line(out.paint(Look::Bold, "1. The IAM OIDC provider, once per account"));
        out.line(pretty(provider));
    }
    out.line(out.paint(Look::Bold, "2. The trust policy of each role that scopes name"));
    out.line(pretty(part(&made, "trust_policy")));
    out.line(out.paint(
        Look::Bold,
        "3. For ending sessions early: a policy of the identity that the broker revokes with",
    ));
    out.line(pretty(part(&made, "revocation_policy")));
    out.line(out.paint(Look::Bold, "4. As commands"));
    for command in list(&made, "commands").iter().filter_map(Value::as_str) {
        out.line(command);
    }
    Ok(Exit::Done)
}

fn part<'a>(value: &'a Value, key: &str) -> &'a Value {
    value.get(key).unwrap_or(&Value::Null)
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

/// The documents, as IAM reads them.
fn documents(setup: &Setup) -> Result<Value, String> {
    let Setup { account, roles, audience, partition, .. } = setup;
    if account.len() != 12 || !account.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("--account: `{account}` is not an account's 12 digits"));
    }
    if !["aws", "aws-cn", "aws-us-gov"].contains(&partition.as_str()) {
        return Err(format!("--partition: `{partition}`: want aws, aws-cn or aws-us-gov"));
    }
    let plain = |t: &str| {
        !t.is_empty() && t.bytes().all(|b| b.is_ascii_graphic() && !b"'\"\\*?$`".contains(&b))
    };
    for text in roles.iter().chain([audience]).chain(&setup.external_id).chain(&setup.principal) {
        if !plain(text) {
            return Err(format!("`{text}` is empty, or has a quote, a wildcard or a space"));
        }
    }
    let arns: Vec<String> = roles
        .iter()
        .map(|role| format!("arn:{partition}:iam::{account}:role/{}", role.trim_start_matches('/')))
        .collect();
    let (provider, mut statement) = match (&setup.issuer, &setup.principal) {
        (Some(issuer), None) => by_issuer(setup, issuer)?,
        (None, Some(principal)) => (
            Value::Null,
            json!({
                "Effect": "Allow",
                "Principal": { "AWS": principal },
                "Action": ["sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"],
            }),
        ),
        _ => return Err("want --issuer, the broker's public_url, or --principal".into()),
    };
    // Without these tags nobody finds the request in AWS's own trail, and no session can be ended.
    let mut conditions: Map<String, Value> =
        part(&statement, "Condition").as_object().cloned().unwrap_or_default();
    let tags = json!({ "aws:RequestTag/request": "false", "aws:RequestTag/agent": "false" });
    conditions.insert("Null".into(), tags);
    if let Some(id) = &setup.external_id {
        if setup.issuer.is_some() {
            return Err("--external-id: a role that is assumed by web identity takes none".into());
        }
        conditions.insert("StringEquals".into(), json!({ "sts:ExternalId": id }));
    }
    if let Value::Object(statement) = &mut statement {
        statement.insert("Condition".into(), conditions.into());
    }
    let trust = json!({ "Version": "2012-10-17", "Statement": [statement] });
    let revocation = json!({
        "Version": "2012-10-17",
        "Statement": [{
            "Effect": "Allow",
            "Action": ["iam:GetRolePolicy", "iam:PutRolePolicy"],
            "Resource": arns,
        }],
    });
    let mut commands = Vec::new();
    if let Some(url) = provider.get("Url").and_then(Value::as_str) {
        commands.push(format!(
            "aws iam create-open-id-connect-provider --url '{url}' --client-id-list '{audience}'"
        ));
    }
    for role in roles {
        let (path, name) = role.trim_start_matches('/').rsplit_once('/').unwrap_or(("", role));
        let path = if path.is_empty() { "/".to_owned() } else { format!("/{path}/") };
        commands.push(format!(
            "aws iam create-role --path '{path}' --role-name '{name}' --assume-role-policy-document '{trust}'"
        ));
    }
    let mut out = json!({
        "trust_policy": trust, "revocation_policy": revocation, "role_arns": arns, "commands": commands,
    });
    if let (false, Value::Object(out)) = (provider.is_null(), &mut out) {
        out.insert("oidc_provider".into(), provider);
    }
    Ok(out)
}

/// The provider and the statement that trusts it, for exactly one audience and one subject.
fn by_issuer(setup: &Setup, issuer: &str) -> Result<(Value, Value), String> {
    let issuer = issuer.trim_end_matches('/');
    let host = issuer.strip_prefix("https://").unwrap_or_default();
    let authority = host.split('/').next().unwrap_or_default();
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'/' | b'_');
    if authority.is_empty() || !host.bytes().all(plain) {
        return Err(format!(
            "--issuer: `{issuer}`: AWS wants https:// and a public name, without port or query"
        ));
    }
    let arn = format!("arn:{}:iam::{}:oidc-provider/{host}", setup.partition, setup.account);
    let provider = json!({ "Url": issuer, "ClientIDList": [setup.audience], "Arn": arn });
    let equals = json!({
        format!("{host}:aud"): setup.audience,
        format!("{host}:sub"): format!("{issuer}/broker"),
    });
    let statement = json!({
        "Effect": "Allow",
        "Principal": { "Federated": arn },
        "Action": ["sts:AssumeRoleWithWebIdentity", "sts:TagSession", "sts:SetSourceIdentity"],
        "Condition": { "StringEquals": equals },
    });
    Ok((provider, statement))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setup(issuer: Option<&str>, principal: Option<&str>) -> Setup {
        Setup {
            issuer: issuer.map(Into::into),
            principal: principal.map(Into::into),
            account: "111122223333".into(),
            roles: vec!["agents/reader".into()],
            audience: "sts.amazonaws.com".into(),
            external_id: None,
            partition: "aws".into(),
        }
    }

    #[test]
    fn the_trust_policy_names_one_issuer_audience_and_subject() {
        let made = documents(&setup(Some("https://broker.example.org/gw/"), None)).unwrap();
        let statement = &made["trust_policy"]["Statement"][0];
        let arn = "arn:aws:iam::111122223333:oidc-provider/broker.example.org/gw";
        assert_eq!(statement["Principal"]["Federated"], arn);
        assert_eq!(
            statement["Condition"]["StringEquals"],
            json!({
                "broker.example.org/gw:aud": "sts.amazonaws.com",
                "broker.example.org/gw:sub": "https://broker.example.org/gw/broker",
            })
        );
        assert_eq!(made["role_arns"][0], "arn:aws:iam::111122223333:role/agents/reader");
        assert_eq!(made["revocation_policy"]["Statement"][0]["Resource"], made["role_arns"]);
    }

    #[test]
    fn what_could_mean_more_is_refused() {
        for issuer in ["http://broker.example.org", "https://b.example.org:8443", "https://b/*", ""]
        {
            assert!(documents(&setup(Some(issuer), None)).is_err(), "{issuer}");
        }
        assert!(documents(&setup(None, None)).is_err());
        assert!(documents(&setup(None, Some("*"))).is_err());
        let mut wrong = setup(None, Some("arn:aws:iam::111122223333:user/broker"));
        wrong.external_id = Some("grantwright".into());
        let made = documents(&wrong).unwrap();
        let condition = &made["trust_policy"]["Statement"][0]["Condition"];
        assert_eq!(condition["StringEquals"]["sts:ExternalId"], "grantwright");
        wrong.account = "1".into();
        assert!(documents(&wrong).is_err());
    }
}
