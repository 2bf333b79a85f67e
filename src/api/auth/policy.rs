//! Whether a request passes: what its route takes, who asks, from where, and whether a page in a browser sent it.

use std::net::IpAddr;

use super::roles::{Access, Asked, Port, Roles};
use crate::types::error::{Code, Error};

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub enum Who<'a> {
    /// No callers are configured: whoever reaches the port.
    Anyone,
    /// Without a key or certificate; with one that nobody has: `wrong`.
    Nobody {
        wrong: bool,
    },
    Known {
        name: &'a str,
        roles: Roles,
        by_key: bool,
    },
}

/// What else is known of a request before its body.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    pub port: Port,
    pub method: &'a str,
    /// From this machine.
    pub local: bool,
    /// Over a Unix socket, which no browser opens.
    pub socket: bool,
    /// Whom it was sent to, by its own word: the authority, or `Host`.
    pub host: Option<&'a str>,
    /// The page that sent it, where a browser says so.
    pub origin: Option<&'a str>,
    /// Names of ours beside addresses and `localhost`.
    pub hosts: &'a [String],
}

/// Lets the request pass, or says why not.
///
/// # Errors
/// `Unauthenticated` or `PermissionDenied`.
pub fn decide(asked: &Asked, who: Who, seen: &Seen) -> Result<(), Error> {
    if asked.access == Access::Open {
        return Ok(());
    }
    match who {
        Who::Nobody { wrong } => return Err(unauthenticated(wrong)),
        Who::Known { name, roles, .. } => {
            if let Access::Role(role) = asked.access
                && !roles.has(role)
            {
                let unlisted =
                    if asked.listed { "" } else { ", as does every path that is not known" };
                return Err(denied(format!(
                    "this takes the role '{}'{unlisted}; caller '{name}' does not have it",
                    role.name()
                )));
            }
        }
        // What can change or reveal something answers this machine alone.
        Who::Anyone
            if seen.port == Port::Operator && asked.access != Access::Known && !seen.local =>
        {
            return Err(denied(
                "this path of the operator's port answers only callers on the same machine, until callers are configured",
            ));
        }
        Who::Anyone => {}
    }
    browser(asked, matches!(who, Who::Known { by_key: true, .. }), seen)
}

/// What a page of a stranger can make a browser send is refused: it reaches loopback, and speaks with the user's own
/// certificate. It can neither send a key that it does not know, nor take away the `Origin`.
fn browser(asked: &Asked, by_key: bool, seen: &Seen) -> Result<(), Error> {
    if seen.socket {
        return Ok(());
    }
    let ours = seen.host.is_none_or(|host| is_ours(host, seen.hosts));
    let reveals = seen.port == Port::Operator && asked.access != Access::Known;
    if reveals && !by_key && !ours {
        return Err(denied(
            "the operator's port answers only to an address, to localhost and to the names of auth.hosts",
        ));
    }
    let changes = asked.access.changes() && !matches!(seen.method, "GET" | "HEAD");
    if let Some(origin) = seen.origin.filter(|_| changes) {
        let own = origin.split_once("://").map(|(_, authority)| authority);
        if !ours || own.is_none() || own != seen.host {
            return Err(denied("a page of another origin may not change the server"));
        }
    }
    Ok(())
}

/// Whether a host is an address, this machine, or one of our names; the port does not matter.
fn is_ours(host: &str, names: &[String]) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    let bare = bare.strip_suffix('.').unwrap_or(bare);
    bare.parse::<IpAddr>().is_ok()
        || bare.eq_ignore_ascii_case("localhost")
        || names.iter().any(|own| own.eq_ignore_ascii_case(bare))
}

fn unauthenticated(wrong: bool) -> Error {
    let message = if wrong {
        "this key or certificate is not known here"
    } else {
        "a key is needed: send it as 'authorization: Bearer KEY'"
    };
    Error::new(Code::Unauthenticated, message)
}

fn denied(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(Code::PermissionDenied, message)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::api::auth::roles::{ROUTES, Role, asked};

    const LOCAL: Seen = Seen {
        port: Port::Operator,
        method: "GET",
        local: true,
        socket: false,
        host: Some("127.0.0.1:8002"),
        origin: None,
        hosts: &[],
    };

    fn known(role: Role, by_key: bool) -> Who<'static> {
        Who::Known { name: "search", roles: Roles::of(&[role]), by_key }
    }

    fn code(path: &str, who: Who, seen: &Seen) -> Option<Code> {
        decide(&asked(seen.port, seen.method, path), who, seen).err().map(|error| error.code)
    }

    #[test]
    fn without_callers_the_operators_port_is_this_machines() {
        let remote = Seen { local: false, ..LOCAL };
        assert_eq!(code("/admin/v1/models", Who::Anyone, &LOCAL), None);
        assert_eq!(code("/admin/v1/models", Who::Anyone, &remote), Some(Code::PermissionDenied));
        assert_eq!(code("/nope", Who::Anyone, &remote), Some(Code::PermissionDenied));
        assert_eq!(code("/metrics", Who::Anyone, &remote), None);
        assert_eq!(code("/", Who::Anyone, &remote), None);
        let data = Seen { port: Port::Data, method: "POST", ..remote };
        assert_eq!(code("/v2/models/iris/infer", Who::Anyone, &data), None);
        assert_eq!(code("/nope", Who::Anyone, &data), None);
    }

    #[test]
    fn a_certificate_or_nobody_must_ask_us_by_our_name() {
        let evil = Seen { host: Some("evil.example:8002"), ..LOCAL };
        let admin = "/admin/v1/models";
        assert_eq!(code(admin, Who::Anyone, &evil), Some(Code::PermissionDenied));
        assert_eq!(code(admin, known(Role::Admin, false), &evil), Some(Code::PermissionDenied));
        // A page does not know the key.
        assert_eq!(code(admin, known(Role::Admin, true), &evil), None);
        assert_eq!(code("/metrics", Who::Anyone, &evil), None);
        assert_eq!(code(admin, Who::Anyone, &Seen { socket: true, ..evil }), None);
        assert_eq!(code(admin, Who::Anyone, &Seen { host: None, ..LOCAL }), None);
        let names = ["evil.example".to_owned()];
        assert_eq!(code(admin, Who::Anyone, &Seen { hosts: &names, ..evil }), None);
    }

    #[test]
    fn a_page_of_another_origin_changes_nothing() {
        let load = "/v2/repository/models/iris/load";
        let from = |origin| Seen { method: "POST", origin: Some(origin), ..LOCAL };
        assert_eq!(code(load, Who::Anyone, &Seen { method: "POST", ..LOCAL }), None);
        assert_eq!(code(load, Who::Anyone, &from("http://127.0.0.1:8002")), None);
        for origin in
            ["http://evil.example", "null", "http://127.0.0.1:80020", "127.0.0.1:8002", ""]
        {
            for port in [Port::Data, Port::Operator] {
                let seen = Seen { port, ..from(origin) };
                assert_eq!(
                    code(load, Who::Anyone, &seen),
                    Some(Code::PermissionDenied),
                    "{origin}"
                );
            }
        }
        // Turned towards this machine by its name server: its own origin, and yet a stranger's.
        let rebound =
            Seen { host: Some("evil.example"), port: Port::Data, ..from("http://evil.example") };
        assert_eq!(code(load, Who::Anyone, &rebound), Some(Code::PermissionDenied));
        // What only asks is not kept from anybody by this.
        let infer = Seen { port: Port::Data, ..from("http://evil.example") };
        assert_eq!(code("/v2/models/iris/infer", Who::Anyone, &infer), None);
    }

    #[test]
    fn which_hosts_are_ours() {
        for host in
            ["127.0.0.1", "10.0.0.7:8002", "[::1]:8002", "localhost", "LOCALHOST:1", "localhost."]
        {
            assert!(is_ours(host, &[]), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example:8002",
            "1.2.3",
            "[evil]",
        ] {
            assert!(!is_ours(host, &[]), "{host}");
        }
        assert!(is_ours("Onnxd.prod.svc:8002", &["onnxd.prod.svc".into()]));
    }

    proptest! {
        /// Over every row, verb and caller: who is not known passes only where it is open, and who is passes exactly where
        /// a role of theirs is asked for.
        #[test]
        fn nothing_passes_but_by_the_table(
            row in 0..ROUTES.len(),
            method in prop::sample::select(vec!["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]),
            port in prop::sample::select(vec![Port::Data, Port::Operator]),
            role in prop::sample::select(Role::ALL.to_vec()),
            local: bool,
        ) {
            let path = ROUTES[row].path;
            let asked = asked(port, method, path);
            let seen = Seen { port, method, local, ..LOCAL };
            for wrong in [false, true] {
                let open = decide(&asked, Who::Nobody { wrong }, &seen).is_ok();
                prop_assert_eq!(open, asked.access == Access::Open);
            }
            let passes = decide(&asked, known(role, true), &seen).is_ok();
            let should = match asked.access {
                Access::Open | Access::Known => true,
                Access::Role(needed) => Roles::of(&[role]).has(needed),
            };
            prop_assert_eq!(passes, should);
        }
    }
}
