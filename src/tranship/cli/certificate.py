"""`tranship certificate`: what a platform shows of itself, for a person to compare and to trust."""

import click


@click.command()
@click.argument("url")
def certificate(url: str) -> None:
    """Show the certificate behind a provider's URL, before it is trusted.

    Of an oVirt Engine it is the certificate of its own authority, which signs the Engine's and the hosts'. Nothing is verified
    here: compare the fingerprint with what the platform's administrator knows, then put the text between BEGIN and END
    into the secret's ca.crt (vSphere: or the fingerprint into its thumbprint).
    """
    from tranship.providers.ovirt.client import fetch_ca
    from tranship.providers.trust import fetch_certificate

    found = fetch_ca(url) if "/ovirt-engine" in url else fetch_certificate(url)
    rows = [
        ("Subject", found.subject),
        ("Issuer", found.issuer),
        ("Names", ", ".join(found.names)),
        ("Valid", f"{found.not_before} to {found.not_after}"),
        ("SHA-1", found.sha1),
        ("SHA-256", found.sha256),
    ]
    for name, value in rows:
        if value:
            click.echo(f"{name + ':':<9} {value}")
    click.echo(found.pem.strip())
