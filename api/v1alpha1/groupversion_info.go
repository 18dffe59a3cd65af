// Package v1alpha1 is the API of AppIsolation: one object that says how an application is cut off from everything
// that it did not ask for.
//
// +kubebuilder:object:generate=true
// +groupName=appisolation.io
package v1alpha1

import (
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/scheme"
)

var (
	// GroupVersion is appisolation.io/v1alpha1.
	GroupVersion = schema.GroupVersion{Group: "appisolation.io", Version: "v1alpha1"}

	// SchemeBuilder collects this package's types.
	SchemeBuilder = &scheme.Builder{GroupVersion: GroupVersion}

	// AddToScheme adds this package's types to a scheme.
	AddToScheme = SchemeBuilder.AddToScheme
)

func init() { SchemeBuilder.Register(&AppIsolation{}, &AppIsolationList{}) }
