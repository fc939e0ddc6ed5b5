"""The API's description in OpenAPI 3.1, made of the models of the code; for development only, nothing here ships."""
