"""The OpenAPI document of the whole API, and the page that shows it."""
