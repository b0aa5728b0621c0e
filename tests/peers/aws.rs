//! The AWS SDK for Rust as an agent would have it: each line on stdin asks STS who we are, and the answer
//! is one line. Plain HTTP is all that is asked here.

use std::io::Write as _;

use aws_smithy_types::error::display::DisplayErrorContext;
use tokio::io::{AsyncBufReadExt as _, BufReader};

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let config = aws_config::defaults(aws_config::BehaviorVersion::latest())
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .load()
        .await;
    let client = aws_sdk_sts::Client::new(&config);
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Ok(Some(_)) = lines.next_line().await {
        let answer = match client.get_caller_identity().send().await {
            Ok(who) => format!("OK {}", who.arn().unwrap_or_default()),
            Err(error) => {
                let text = DisplayErrorContext(&error).to_string();
                format!("NO {}", text.split_whitespace().collect::<Vec<_>>().join(" "))
            }
        };
        writeln!(std::io::stdout(), "{answer}")?;
    }
    Ok(())
}
