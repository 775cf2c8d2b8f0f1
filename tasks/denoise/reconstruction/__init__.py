"""Images from measurements: tomography, magnetic resonance, blurred or incomplete pictures."""
