"""Requests and embedding calls that are traced: types that replace the plain ones only while tracing is on."""
