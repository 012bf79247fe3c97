//! Listings: large ones, wildcards, links, and what is missing.
