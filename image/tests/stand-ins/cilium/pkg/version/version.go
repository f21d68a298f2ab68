// Package version stands in for the part of its namesake that is used here.
package version

var ciliumVersion string

// Version is what the linker was told.
func Version() string { return ciliumVersion }
