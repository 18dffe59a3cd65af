package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

const checksums = "checksums.txt"

// seal writes the checksums of all files of a folder, as sha256sum does.
func seal(dir string) error {
	lines, err := sums(dir)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, checksums), []byte(strings.Join(lines, "")), 0o644) //nolint:gosec // it is published
}

// sums are a line for each file of a folder, by name.
func sums(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var lines []string
	for _, entry := range entries {
		if entry.IsDir() || entry.Name() == checksums {
			continue
		}
		sum, err := sumOf(filepath.Join(dir, entry.Name()))
		if err != nil {
			return nil, err
		}
		lines = append(lines, fmt.Sprintf("%s  %s\n", sum, entry.Name()))
	}
	return lines, nil
}

func sumOf(path string) (string, error) {
	file, err := os.Open(path) //nolint:gosec // ours
	if err != nil {
		return "", err
	}
	defer file.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		return "", err
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}
