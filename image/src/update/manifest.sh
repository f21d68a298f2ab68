# Takes what was signed out of a bundle.
rauc --keyring=/in/keyring extract-signature /out/update.raucb thrown-away
openssl cms -verify -noverify -inform DER -in thrown-away -binary -out manifest
