# Puts another signature, over the same manifest, into a bundle: RAUC looks at the one that was and the one that is.
cat /in/certificate /in/keyring >both
rauc --keyring=both replace-signature /out/update.raucb signature signed.raucb
rauc --keyring=/in/keyring info signed.raucb
mv signed.raucb /out/update.raucb
