//! Does a client certificate belong to a user? The rules are those of `users.NAME.client_certificate`.

use crate::config::client_certificate::{CertificateName, CertificateRule};
use crate::tls::client_certificate::ClientCertificate;
use crate::tls::x509::CertificateNames;

/// Is it what the rule asks for? Its issuer is not asked about: every authority in `tls.client_ca` may vouch for any name.
pub(super) fn fits(rule: &CertificateRule, certificate: &ClientCertificate, names: &CertificateNames) -> bool {
    match rule {
        CertificateRule::Fingerprints(fingerprints) => fingerprints.contains(&certificate.fingerprint),
        CertificateRule::Name(name) => is_named(name, names),
    }
}

/// SECURITY: whole texts are compared, never parts or patterns, and of a name that may stand there only once, two are none.
fn is_named(name: &CertificateName, names: &CertificateNames) -> bool {
    match name {
        CertificateName::CommonName(name) => {
            let mut common_names = names.subject.iter().flatten().flatten().filter(|(kind, _)| kind == "CN");
            common_names.next().is_some_and(|(_, common)| common == name) && common_names.next().is_none()
        }
        CertificateName::Subject(subject) => names.subject.as_ref() == Some(&subject.0),
        CertificateName::Dns(name) => names.dns.iter().any(|other| other.eq_ignore_ascii_case(name)),
        CertificateName::Email(name) => names.emails.iter().any(|other| is_same_mailbox(name, other)),
        CertificateName::Uri(name) => names.uris.contains(name),
    }
}

/// The part before the @ belongs to the host behind it, which may tell cases apart (RFC 5280 §7.5).
fn is_same_mailbox(one: &str, other: &str) -> bool {
    match (one.rsplit_once('@'), other.rsplit_once('@')) {
        (Some((one, host)), Some((other, other_host))) => one == other && host.eq_ignore_ascii_case(other_host),
        _ => one == other,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::client_certificate::DistinguishedName;

    #[test]
    fn whole_names_count_and_parts_do_not() {
        let pair = |kind: &str, value: &str| (kind.to_owned(), value.to_owned());
        let subject = vec![BTreeSet::from([pair("CN", "acme")]), BTreeSet::from([pair("O", "Acme")])];
        let names = CertificateNames {
            subject: Some(subject.clone()),
            dns: vec!["ftp.example".into()],
            emails: vec!["robot@Example".into()],
            uris: vec!["spiffe://a/b".into()],
        };
        let is_named = |name: CertificateName| is_named(&name, &names);
        assert!(is_named(CertificateName::CommonName("acme".into())));
        for other in ["Acme", "acm", "acme ", "acme.evil", "acme\0.evil", "*", ""] {
            assert!(!is_named(CertificateName::CommonName(other.into())), "{other}");
        }
        assert!(is_named(CertificateName::Subject(DistinguishedName(subject.clone()))));
        assert!(!is_named(CertificateName::Subject(DistinguishedName(subject[..1].to_vec()))));
        assert!(!is_named(CertificateName::Subject(DistinguishedName(subject.iter().rev().cloned().collect()))));
        assert!(is_named(CertificateName::Dns("FTP.example".into())));
        assert!(!is_named(CertificateName::Dns("example".into())));
        assert!(is_named(CertificateName::Email("robot@example".into())));
        assert!(!is_named(CertificateName::Email("Robot@example".into())));
        assert!(is_named(CertificateName::Uri("spiffe://a/b".into())));
        assert!(!is_named(CertificateName::Uri("spiffe://A/b".into())));
    }

    #[test]
    fn two_common_names_are_none() {
        let pair = |value: &str| BTreeSet::from([("CN".to_owned(), value.to_owned())]);
        let names = CertificateNames { subject: Some(vec![pair("acme"), pair("other")]), ..Default::default() };
        for name in ["acme", "other"] {
            assert!(!is_named(&CertificateName::CommonName(name.into()), &names));
        }
        assert!(!is_named(&CertificateName::CommonName(String::new()), &CertificateNames::default()));
    }
}
