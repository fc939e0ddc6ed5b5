"""The HTTP interface of OpenAI's clients; docs/openai.md describes it."""
