"""Accounts on the page: sessions, their routes, conversations on the server, OpenID Connect."""
