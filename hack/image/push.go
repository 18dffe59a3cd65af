package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// push brings the image that build wrote to a registry, as $REGISTRY_USER, or else as whoever docker login knows.
func push(dir, reference string) error {
	ref, err := name.ParseReference(reference)
	if err != nil {
		return err
	}
	files, err := layout.ImageIndexFromPath(filepath.Join(dir, "image"))
	if err != nil {
		return fmt.Errorf("read the image: %w", err)
	}
	manifest, err := files.IndexManifest()
	if err != nil {
		return err
	}
	if len(manifest.Manifests) != 1 {
		return fmt.Errorf("%s has %d images instead of one", dir, len(manifest.Manifests))
	}
	index, err := files.ImageIndex(manifest.Manifests[0].Digest)
	if err != nil {
		return err
	}
	who := remote.WithAuthFromKeychain(authn.DefaultKeychain)
	if user := os.Getenv("REGISTRY_USER"); user != "" {
		who = remote.WithAuth(&authn.Basic{Username: user, Password: os.Getenv("REGISTRY_PASSWORD")})
	}
	if err := remote.WriteIndex(ref, index, who); err != nil {
		return err
	}
	fmt.Printf("%s@%s\n", ref, manifest.Manifests[0].Digest)
	return nil
}
