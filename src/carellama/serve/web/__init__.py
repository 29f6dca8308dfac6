"""The web page, served by the API's application: same origin, same limits, same assistant with its safety layer."""
