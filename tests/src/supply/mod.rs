//! What stands on the supply side of a rig: registry, Sigstore, OIDC issuer, images, senders of build events, GitHub.
