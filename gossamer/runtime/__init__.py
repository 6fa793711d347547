"""All that an artefact needs in order to run: torch and transformers only, no import from the rest of gossamer.

The files of this folder travel, as they are, inside every artefact that a plain architecture cannot hold.
"""
