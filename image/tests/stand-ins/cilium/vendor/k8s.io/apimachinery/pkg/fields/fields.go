// Package fields stands in for the part of its namesake that is used here.
package fields

// Selector is a text.
type Selector string

// ParseSelectorOrDie takes any.
func ParseSelectorOrDie(text string) Selector { return Selector(text) }

// String is the text.
func (s Selector) String() string { return string(s) }
