"""Sheets, figures and HTML pages of results."""
