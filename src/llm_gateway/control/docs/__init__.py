"""OpenAPI document of the whole API, and the Swagger UI page that shows it."""
