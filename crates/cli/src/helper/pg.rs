//! What libpq reads: the password file and the connection service file of PostgreSQL's manual.

use crate::exit::Failure;

/// Where the database is.
#[derive(Debug, Clone, clap::Args)]
pub struct Server {
    /// Host of the database, or the folder of its socket.
    #[arg(long, default_value = "localhost")]
    pub host: String,
    /// Its port.
    #[arg(long, default_value_t = 5432)]
    pub port: u16,
    /// The database's name; in a password file absent means any.
    #[arg(long)]
    pub dbname: Option<String>,
    /// The service's name in the service file.
    #[arg(long, default_value = "grantwright")]
    pub service: String,
}

impl Server {
    /// One line `host:port:database:user:password`; `:` and `\` are escaped.
    pub fn passfile(&self, user: &str, password: &str) -> Result<String, Failure> {
        let fields = [
            self.host.as_str(),
            &self.port.to_string(),
            self.dbname.as_deref().unwrap_or("*"),
            user,
            password,
        ];
        plain(&fields)?;
        let escaped = fields.map(|it| it.replace('\\', "\\\\").replace(':', "\\:"));
        Ok(format!("{}\n", escaped.join(":")))
    }

    /// One section. Values stand as they are; libpq cuts white space off their ends.
    pub fn service_file(&self, user: &str, password: &str) -> Result<String, Failure> {
        let dbname = self.dbname.as_deref().unwrap_or_default();
        plain(&[&self.host, dbname, user, password, &self.service])?;
        if [user, password].iter().any(|it| it.trim() != *it) || self.service.contains(']') {
            return Err(Failure::unable("user, password or name do not fit a service file"));
        }
        let mut text = format!("[{}]\nhost={}\nport={}\n", self.service, self.host, self.port);
        if !dbname.is_empty() {
            text.push_str(&format!("dbname={dbname}\n"));
        }
        text.push_str(&format!("user={user}\npassword={password}\n"));
        Ok(text)
    }
}

fn plain(fields: &[&str]) -> Result<(), Failure> {
    if fields.iter().any(|it| it.contains(['\n', '\r', '\0'])) {
        return Err(Failure::unable("a value with a line end does not fit libpq's files"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stand_as_libpq_reads_them() {
        let server = Server {
            host: "::1".into(),
            port: 5433,
            dbname: Some("sales".into()),
            service: "app".into(),
        };
        assert_eq!(server.passfile("u", "a:b\\c").unwrap(), "\\:\\:1:5433:sales:u:a\\:b\\\\c\n");
        assert_eq!(
            server.service_file("u", "a:b\\c").unwrap(),
            "[app]\nhost=::1\nport=5433\ndbname=sales\nuser=u\npassword=a:b\\c\n"
        );
        assert!(server.passfile("u", "a\nb").is_err());
        assert!(server.service_file("u\nhost=evil", "p").is_err());
        assert!(server.service_file("u", "p ").is_err());
    }
}
