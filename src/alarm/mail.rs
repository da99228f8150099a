//! A mail for each notice, through the operator's own server.

use std::time::Duration;

use lettre::message::{Mailbox, Mailboxes, header::ContentType};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};

use super::{Notice, Trouble};
use crate::config::Mail;

/// Each step of the dialogue with the server.
const STEP: Duration = Duration::from_secs(10);
/// The whole dialogue.
const DEADLINE: Duration = Duration::from_secs(40);

pub(super) struct Mailer {
    from: Mailbox,
    to: Mailboxes,
    host: String,
    transport: AsyncSmtpTransport<Tokio1Executor>,
}

/// How the line to the server is protected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wrap {
    /// TLS from the first byte.
    Always,
    /// STARTTLS or nothing.
    Demanded,
    /// STARTTLS where it is offered.
    Offered,
}

/// Name, port and protection that `smtp` asks for.
fn server(smtp: &str, with_password: bool) -> Result<(String, u16, Wrap), String> {
    let (scheme, rest) = smtp.split_once("://").unwrap_or(("", smtp));
    let rest = rest.trim_end_matches('/');
    let (name, port) = match rest.rsplit_once(':') {
        Some((name, port)) => (name, Some(port.parse::<u16>().map_err(|_| format!("\"{smtp}\" has an odd port"))?)),
        None => (rest, None),
    };
    if name.is_empty() || name.contains(['@', '/', ' ']) {
        return Err(format!("\"{smtp}\" is not of the form smtps://host[:port], smtp://host[:port] or host[:port]"));
    }
    let wrap = match (scheme, port) {
        ("smtps", _) | ("", Some(465)) => Wrap::Always,
        ("smtp" | "", _) if with_password => Wrap::Demanded,
        ("smtp" | "", _) => Wrap::Offered,
        _ => return Err(format!("\"{smtp}\": the schemes are smtp:// and smtps://")),
    };
    let port = port.unwrap_or(match wrap {
        Wrap::Always => 465,
        Wrap::Demanded => 587,
        Wrap::Offered => 25,
    });
    Ok((name.into(), port, wrap))
}

impl Mailer {
    pub fn new(mail: &Mail, host: &str) -> Result<Mailer, String> {
        let refuse = |what: &str, why: String| format!("[alarm] mail: {what}: {why}");
        let (name, port, wrap) = server(&mail.smtp, mail.password.is_some()).map_err(|why| refuse("smtp", why))?;
        let to: Mailboxes = mail.to.parse().map_err(|error| refuse("to", format!("{error}")))?;
        let from = mail.from.clone().unwrap_or_else(|| format!("cosfs-ha@{}", domain(host)));
        let from: Mailbox = from.parse().map_err(|error| refuse("from", format!("{error}")))?;
        let mut parameters = TlsParameters::builder(name.clone());
        if let Some(path) = &mail.ca {
            let text = std::fs::read(path).map_err(|error| refuse("ca", format!("{}: {error}", path.display())))?;
            let certificate = Certificate::from_pem(&text).map_err(|error| refuse("ca", error.to_string()))?;
            parameters = parameters.add_root_certificate(certificate);
        }
        let tls = match (parameters.build_rustls(), wrap) {
            (Ok(parameters), Wrap::Always) => Tls::Wrapper(parameters),
            (Ok(parameters), Wrap::Demanded) => Tls::Required(parameters),
            (Ok(parameters), Wrap::Offered) => Tls::Opportunistic(parameters),
            // No certificate authority on this host: a server without TLS can still be used.
            (Err(_), Wrap::Offered) => Tls::None,
            (Err(error), _) => return Err(refuse("smtp", error.to_string())),
        };
        let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(name).port(port).tls(tls);
        if let (Some(user), Some(password)) = (&mail.user, &mail.password) {
            builder = builder.credentials(Credentials::new(user.clone(), password.0.clone()));
        }
        Ok(Mailer { from, to, host: host.into(), transport: builder.timeout(Some(STEP)).build() })
    }

    fn message(&self, notice: &Notice) -> Result<Message, lettre::error::Error> {
        let phase = notice.phase.as_str();
        let evidence = serde_json::to_string_pretty(&notice.evidence).unwrap_or_default();
        let text = format!(
            "{event} {phase} on {host}, mount {mount}\n\n{summary}\n\nRaised:  {since}\nNow:     {time}\nTimes:   {times}\n\
             Id:      {id}\n\nEvidence:\n{evidence}\n\nMore: cosfs-ha status {mount}\n",
            event = notice.event,
            host = notice.host,
            mount = notice.mountpoint,
            summary = notice.summary,
            since = notice.since,
            time = notice.time,
            times = notice.times,
            id = notice.id,
        );
        let mut message = Message::builder()
            .from(self.from.clone())
            .subject(format!("[cosfs-ha {}] {} {phase}: {}", self.host, notice.event, shortened(&notice.summary)))
            .message_id(Some(format!("<{}.{phase}@{}>", notice.id, domain(&self.host))))
            .date_now()
            .header(ContentType::TEXT_PLAIN);
        for address in self.to.iter() {
            message = message.to(address.clone());
        }
        message.body(text)
    }

    pub async fn send(&self, notice: &Notice) -> Result<(), Trouble> {
        let message = self.message(notice).map_err(|error| Trouble::Final(error.to_string()))?;
        match tokio::time::timeout(DEADLINE, self.transport.send(message)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) if error.is_permanent() => Err(Trouble::Final(error.to_string())),
            Ok(Err(error)) => Err(Trouble::Passing(error.to_string())),
            Err(_) => Err(Trouble::Passing(format!("not done after {} s", DEADLINE.as_secs()))),
        }
    }
}

/// A name that may stand behind the @ of an address.
fn domain(host: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    let name: String = host.chars().filter(|c| plain(*c)).collect();
    let name = name.trim_matches(['-', '.']).to_string();
    if name.is_empty() { "localhost".into() } else { name }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(120) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers() {
        let rows = [
            ("smtps://mail.example.com", false, Ok(("mail.example.com", 465, Wrap::Always))),
            ("mail.example.com:465", false, Ok(("mail.example.com", 465, Wrap::Always))),
            ("smtp://mail.example.com", false, Ok(("mail.example.com", 25, Wrap::Offered))),
            ("mail.example.com", true, Ok(("mail.example.com", 587, Wrap::Demanded))),
            ("127.0.0.1:2525", false, Ok(("127.0.0.1", 2525, Wrap::Offered))),
            ("http://x", false, Err("schemes")),
            ("smtp://user@host", false, Err("form")),
            ("host:port", false, Err("odd port")),
        ];
        for (text, password, expect) in rows {
            match (server(text, password), expect) {
                (Ok((name, port, wrap)), Ok(expect)) => assert_eq!((name.as_str(), port, wrap), expect, "{text}"),
                (Err(error), Err(expect)) => assert!(error.contains(expect), "{text}: {error}"),
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
        assert_eq!(domain("web_1.example."), "web1.example");
    }
}
