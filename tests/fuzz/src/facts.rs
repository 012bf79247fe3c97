//! OPTS MLST and OPTS HASH: what is chosen, what FEAT then shows, and what choosing that again gives.

use ftps2sftp::ftp::digest::{self, Algorithm};
use ftps2sftp::ftp::facts::FactSelection;

/// The list of facts that a client asks for.
pub fn run(bytes: &[u8]) {
    let selection = FactSelection::parse(bytes);
    let accepted = selection.accepted();
    assert_eq!(FactSelection::parse(accepted.as_bytes()), selection, "the answer is another selection");
    assert_eq!(FactSelection::parse(&bytes.to_ascii_uppercase()), selection, "it depends on the case of letters");
    let mut turned: Vec<&[u8]> = bytes.split(|byte| *byte == b';').collect();
    turned.reverse();
    assert_eq!(FactSelection::parse(&turned.join(&b';')), selection, "it depends on the order");

    // Of all facts in FEAT those with a star are the ones accepted, in the same order.
    let feature = selection.feature();
    let starred: String = feature
        .split_terminator(';')
        .filter_map(|fact| fact.strip_suffix('*'))
        .map(|fact| format!("{fact};"))
        .collect();
    assert_eq!(starred, accepted);
    assert_eq!(feature.replace('*', ""), FactSelection::default().accepted());
    for fact in accepted.split_terminator(';') {
        let asked = bytes.split(|byte| *byte == b';').any(|name| name.eq_ignore_ascii_case(fact.as_bytes()));
        assert!(asked, "{fact} was not asked for");
    }

    if let Some(algorithm) = Algorithm::named(bytes) {
        assert!(bytes.eq_ignore_ascii_case(algorithm.name().as_bytes()));
        let line = digest::feature(&Algorithm::ALL, Some(algorithm));
        assert_eq!(line.matches('*').count(), 1);
        assert!(line.contains(&format!("{}*", algorithm.name())));
    }
}
