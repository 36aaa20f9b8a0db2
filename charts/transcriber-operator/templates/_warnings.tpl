{{/* What whoever installs this should know, as a JSON array of sentences; NOTES.txt prints them. Each part has one a line. */}}
{{- define "transcriber-operator.warnings" -}}
{{- $lines := list }}
{{- range list "images" "rights" "cluster" "monitoring" }}
{{- $lines = concat $lines (include (printf "transcriber-operator.warnings.%s" .) $ | splitList "\n") }}
{{- end }}
{{- compact $lines | toJson }}
{{- end }}

{{- define "transcriber-operator.warnings.images" -}}
{{- $registry := .Values.global.imageRegistry }}
{{- if not (and (or $registry .Values.image.registry) (or $registry .Values.serving.image.registry)) }}
An image has no registry, so nodes ask their default one: set global.imageRegistry, or image.registry and serving.image.registry.
{{- end }}
{{- end }}

{{- define "transcriber-operator.warnings.rights" -}}
{{- if not .Values.rbac.create }}
rbac.create is false: grant the ServiceAccount its rights. There is no clean-up before uninstalling, and no helm test.
{{- else if not .Values.cleanup.enabled }}
cleanup.enabled is false: before uninstalling, delete every TranscriberDeployment, or finalizers block them and their namespaces.
{{- end }}
{{- if not .Values.crds.keep }}
crds.keep is false: uninstalling deletes every TranscriberDeployment of the cluster, and what serves.
{{- end }}
{{- end }}

{{- define "transcriber-operator.warnings.cluster" -}}
{{- $apis := .Capabilities.APIVersions }}
{{- if and (not .Values.crds.enabled) (not ($apis.Has "serving.transcriber.dev/v1alpha1")) }}
crds.enabled is false, and the cluster has no CustomResourceDefinition of TranscriberDeployments: the operator ends until it has.
{{- end }}
{{- if not (int .Values.replicas) }}
replicas is 0: no operator runs. Pods serve on, and nothing scales, heals or is built.
{{- end }}
{{- if not ($apis.Has "karpenter.sh/v1/NodePool") }}
Karpenter (karpenter.sh/v1) is not in the cluster: until it is, resources need capacity.provisioner None, and nodes that are there.
{{- else if not .Values.rbac.karpenter }}
rbac.karpenter is false, and Karpenter is in the cluster: resources with capacity.provisioner Karpenter get no nodes.
{{- end }}
{{- end }}

{{- define "transcriber-operator.warnings.monitoring" -}}
{{- $rule := .Values.prometheusRule }}
{{- $pods := .Values.metrics.podMonitor.enabled }}
{{- $operator := .Values.metrics.serviceMonitor.enabled }}
{{- $isThere := .Capabilities.APIVersions.Has "monitoring.coreos.com/v1/PodMonitor" }}
{{- if and $isThere (not (or $pods $operator $rule.enabled)) }}
The Prometheus operator is in the cluster: metrics.podMonitor, metrics.serviceMonitor and prometheusRule can be enabled.
{{- end }}
{{- if and (not $isThere) (or $pods $operator $rule.enabled) }}
The Prometheus operator (monitoring.coreos.com/v1) is not in the cluster: an upgrade once it is makes what renderMode has skipped.
{{- end }}
{{- if and $rule.enabled (not (and $pods $operator)) }}
prometheusRule.enabled without both monitors: alerts need their series, so scrape serving pods and operator by other means.
{{- end }}
{{- if and $rule.enabled (not $rule.runbookBaseUrl) }}
prometheusRule.runbookBaseUrl is empty: runbook_url of the alerts is a path within the repository, and no link.
{{- end }}
{{- end }}
