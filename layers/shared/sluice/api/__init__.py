"""HTTP: problem details, authentication, rate-limit headers, and the routes of each dialect in a folder of its own."""
