package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"
)

// release is a folder with everything that is to be published.
type release struct{ dir, version, image string }

// check says what is wrong with a release: each rule by itself, and all that are broken.
func check(dir, version, image string) error {
	r := release{dir, version, image}
	var errs []error
	for _, rule := range []struct {
		about string
		holds func() error
	}{
		{"checksums.txt", r.isSealed},
		{"notes.md", func() error { return r.has("notes.md", "") }},
		{"install.yaml", func() error { return r.has("install.yaml", "image: "+image+"\n") }},
		{"the chart", r.hasChart},
		{"the bundle", r.hasBundle},
		{"the plugin", r.hasPlugin},
		{"the image", r.hasImage},
		{"the lists of what is inside", r.hasLists},
	} {
		if err := rule.holds(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", rule.about, err))
		}
	}
	return errors.Join(errs...)
}

// isSealed says whether the checksums are those of exactly the files that are there.
func (r release) isSealed() error {
	want, err := sums(r.dir)
	if err != nil {
		return err
	}
	have, err := r.read(checksums)
	if err == nil && string(have) != strings.Join(want, "") {
		return errors.New("not those of the files that are there")
	}
	return err
}

// has says whether a file has some text.
func (r release) has(name, text string) error {
	content, err := r.read(name)
	if err == nil && (len(content) == 0 || !bytes.Contains(content, []byte(text))) {
		return fmt.Errorf("%s does not have %q", name, text)
	}
	return err
}

func (r release) hasChart() error {
	files, err := r.unpack("appisolation-" + r.version + ".tgz")
	if err != nil {
		return err
	}
	var chart struct{ Version, AppVersion string }
	var values struct{ Image struct{ Repository string } }
	if err := errors.Join(yaml.Unmarshal(files["appisolation/Chart.yaml"], &chart), yaml.Unmarshal(files["appisolation/values.yaml"], &values)); err != nil {
		return err
	}
	if chart.Version != r.version || values.Image.Repository+":"+chart.AppVersion != r.image {
		return fmt.Errorf("version %s of image %s:%s", chart.Version, values.Image.Repository, chart.AppVersion)
	}
	return nil
}

func (r release) hasBundle() error {
	files, err := r.unpack("appisolation-bundle-" + r.version + ".tgz")
	if err != nil {
		return err
	}
	var csv struct {
		Metadata struct{ Name string }
		Spec     struct{ Version string }
	}
	text := files["bundle/manifests/appisolation.clusterserviceversion.yaml"]
	if err := yaml.Unmarshal(text, &csv); err != nil {
		return err
	}
	if csv.Metadata.Name != "appisolation.v"+r.version || csv.Spec.Version != r.version || !bytes.Contains(text, []byte("image: "+r.image+"\n")) {
		return fmt.Errorf("%s, version %s, or another image than %s", csv.Metadata.Name, csv.Spec.Version, r.image)
	}
	if _, found := files["bundle/metadata/annotations.yaml"]; !found {
		return errors.New("no metadata")
	}
	return nil
}

// hasPlugin says whether krew's manifest is of this version, and each archive that it names is the one that is there.
func (r release) hasPlugin() error {
	text, err := r.read("appisolation.yaml")
	if err != nil {
		return err
	}
	var plugin struct {
		Spec struct {
			Version   string
			Platforms []struct{ URI, SHA256 string }
		}
	}
	if err := yaml.Unmarshal(text, &plugin); err != nil {
		return err
	}
	if plugin.Spec.Version != "v"+r.version {
		return fmt.Errorf("version %s: is the commit tagged v%s, and nothing changed since?", plugin.Spec.Version, r.version)
	}
	if len(plugin.Spec.Platforms) == 0 {
		return errors.New("for no platform")
	}
	for _, platform := range plugin.Spec.Platforms {
		sum, err := sumOf(filepath.Join(r.dir, filepath.Base(platform.URI)))
		if err != nil {
			return err
		}
		if sum != platform.SHA256 {
			return fmt.Errorf("%s is another file than the manifest says", platform.URI)
		}
	}
	return nil
}

// hasImage says whether the image's file is one that can be loaded.
func (r release) hasImage() error {
	file, err := os.Open(filepath.Join(r.dir, "image.tar"))
	if err != nil {
		return err
	}
	defer file.Close()
	files, err := untar(file)
	if err != nil {
		return err
	}
	for _, name := range []string{"index.json", "oci-layout"} {
		if _, found := files[name]; !found {
			return errors.New("no " + name)
		}
	}
	return nil
}

func (r release) hasLists() error {
	lists, err := filepath.Glob(filepath.Join(r.dir, "*.spdx.json"))
	if err != nil || len(lists) == 0 {
		return errors.Join(err, errors.New("there is none"))
	}
	for _, list := range lists {
		if err := r.has(filepath.Base(list), `"spdxVersion"`); err != nil {
			return err
		}
	}
	return nil
}

func (r release) read(name string) ([]byte, error) {
	return os.ReadFile(filepath.Join(r.dir, name)) //nolint:gosec // ours
}

// unpack are the files of an archive, by name.
func (r release) unpack(name string) (map[string][]byte, error) {
	packed, err := r.read(name)
	if err != nil {
		return nil, err
	}
	unzipped, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	return untar(unzipped)
}

func untar(packed io.Reader) (map[string][]byte, error) {
	files := map[string][]byte{}
	for archive := tar.NewReader(packed); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		content, err := io.ReadAll(archive)
		if err != nil {
			return nil, err
		}
		files[strings.TrimPrefix(header.Name, "./")] = content
	}
}
