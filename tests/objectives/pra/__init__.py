"""Tests of the preference losses."""
