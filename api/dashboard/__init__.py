"""The dashboard, where people work: pages in HTML, signed in to with a password. Programs use the API instead."""
