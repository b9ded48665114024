"""Identity providers (OpenID Connect): their documents, their tokens, and the sign-in of people over them.

The libraries take 20 MB, so that modules import them where they need them: a gateway without a provider has none of it.
"""
